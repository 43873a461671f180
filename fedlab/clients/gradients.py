"""The gradient of a batch, and those of its records one by one.

Clipping needs the norm of every record's own gradient. Written out, these take as much memory as the model
has parameters, for each record of each client of a cohort, and more time than all the rest. Of a linear layer
whose input is a vector per record they are outer products, δ_i x_iᵀ, so that their norms and any weighted sum
follow from δ and x alone (Goodfellow, "Efficient Per-Example Gradient Computations", 2015,
https://arxiv.org/abs/1510.01799). δ is the gradient by a zero that is added to the layer's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad

from fedlab.clients.rules import Aux, Batch
from fedlab.tasks import FunctionalModel, State


class Outer(NamedTuple):
    """The gradient of one record by one parameter, Σ_j left_j right_jᵀ over the rows that stand for it.

    left (k, n), right (k, m); of a bias, right is ones (k, 1). Mapped over records, both have a further axis
    in front.
    """

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """(B,) squared norms of B records' gradients."""
        if self.left.shape[1] == 1:
            return self.left.square().sum((1, 2)) * self.right.square().sum((1, 2))
        return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))

    def weighted(self, weights: Tensor) -> Tensor:
        """(n, m) the sum of B records' gradients with weights (B,)."""
        left = (weights[:, None, None] * self.left).flatten(0, 1)
        return left.T @ self.right.flatten(0, 1)


class Gradients:
    """(parameters, batch) -> gradient of the mean loss over the batch's real rows.

    Args:
        training: whether the network runs in training mode.
        expand: what stands for the rows of a batch, as `LocalRule.expand`.
        layers: names of the layers that `linear_layers` found.
    """

    def __init__(
        self,
        model: FunctionalModel,
        loss: Callable[[Tensor, Tensor], Tensor],
        buffers: State,
        *,
        training: bool,
        expand: Callable[[Batch], Batch],
        layers: tuple[str, ...],
    ) -> None:
        self.model, self.loss, self.buffers = model, loss, buffers
        self.training, self.expand, self.layers = training, expand, layers

    def __call__(self, parameters: State, batch: Batch) -> tuple[State, Aux]:
        def objective(values: State) -> tuple[Tensor, Aux]:
            return self._mean(values, self.expand(batch))

        found: tuple[State, Aux] = grad(objective, has_aux=True)(parameters)
        return found

    def outer(self, parameters: State, batch: Batch) -> tuple[dict[str, Outer], Aux]:
        """The same gradient in another form, for networks with `layers`."""
        part = self.expand(batch)
        taps = {}
        for name in self.layers:
            weight = parameters[f"{name}.weight" if name else "weight"]
            taps[name] = weight.new_zeros(len(part.x), len(weight))

        def objective(zeros: State) -> tuple[Tensor, tuple[Aux, State]]:
            with _tapped(self.model.net, zeros) as inputs:
                mean, aux = self._mean(parameters, part)
            return mean, (aux, dict(inputs))

        lefts, (aux, rights) = grad(objective, has_aux=True)(taps)
        found = {}
        for name in parameters:
            layer, _, kind = name.rpartition(".")
            left = lefts[layer]
            found[name] = Outer(left, rights[layer] if kind == "weight" else left.new_ones(len(left), 1))
        return found, aux

    def _mean(self, parameters: State, batch: Batch) -> tuple[Tensor, Aux]:
        outputs, after = self.model(
            {**parameters, **self.buffers},
            batch.x,
            training=self.training,
            masks=batch.masks,
            noise=batch.samples,
            rows=batch.rows,
        )
        losses = self.loss(outputs, batch.y) * batch.rows
        mean = losses.sum() / batch.rows.sum().clamp(min=1.0)
        return mean, Aux(mean.detach(), after)


def linear_layers(model: FunctionalModel) -> tuple[str, ...]:
    """Names of the linear layers, if all that is learned is theirs, and each is called once on (B, n)."""
    plain = {
        name: layer
        for name, layer in model.net.named_modules()
        if type(layer) is nn.Linear and not layer._forward_hooks
    }
    learned = {name.rpartition(".")[0] for name in model.parameter_names}
    if model.has_batch_norm or not learned <= plain.keys():
        return ()
    calls: dict[str, list[int]] = {name: [] for name in learned}
    hooks = [
        plain[name].register_forward_pre_hook(lambda _, args, name=name: calls[name].append(args[0].dim()))
        for name in learned
    ]
    try:
        kind = next(iter(model.net.parameters())).dtype
        model.net.eval()(torch.zeros(2, *model.input_shape, dtype=kind))
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(name for name in plain if name in learned)
    return layers if all(found == [2] for found in calls.values()) else ()


@contextmanager
def _tapped(net: nn.Module, taps: Mapping[str, Tensor]) -> Iterator[State]:
    """Add a tap to the output of each layer; gives their inputs, once they were called."""
    inputs: State = {}

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name] = arguments[0]
            return output + taps[name]

        return hook

    handles = [net.get_submodule(name).register_forward_hook(tap(name)) for name in taps]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
