"""Which layers of a network can be solved for their input, by the ranks of two matrices; before any training.

For a layer z = W x (a convolution is the same with a structured matrix, applied at many places):

- **forward**: the rank of the map from the layer's input to its output. Where it equals the number of inputs,
  the input follows from the output: attacks that peel a network layer by layer can pass
  (J. Zhu and M. Blaschko, "R-GAP", ICLR 2021, https://arxiv.org/abs/2010.07733, section 4, count such
  constraints; here they are measured).
- **gradient**: the rank of ∂L/∂W = Σ δ_i x_iᵀ for a batch of B records. A layer whose weights are used once
  per record has rank at most B; where it is B, the gradient's row space is the span of the B inputs. With a
  bias and B = 1 the input itself follows (Phong et al., IEEE TIFS 2018).

Both are properties of the architecture at given weights, found on random images and labels; no record of
anybody is looked at.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab.audit.victim import Victim
from fedlab.tasks import State

LARGEST = 1200
"""Inputs of a layer up to which its forward rank is computed."""
TOLERANCE = 1e-9
"""Singular values below this part of the largest are zero, in float64."""

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class LayerRank:
    """One linear or convolutional layer.

    Attributes:
        inputs, outputs: numbers per record. places: how often its weights are used per record.
        shape: of its weight. bias: whether it has one.
        forward: rank of the map from input to output; None where that is too large to compute.
        gradient: rank of its weight's gradient, by batch size.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bias: bool
    inputs: int
    outputs: int
    places: int
    forward: int | None
    gradient: dict[int, int]

    @property
    def passes(self) -> bool | None:
        """Whether the input follows from the output; None if that is not known."""
        if self.outputs < self.inputs:
            return False
        return None if self.forward is None else self.forward == self.inputs

    @property
    def separates(self) -> int:
        """The largest inspected batch whose inputs span the gradient's row space; 0 for none."""
        alone = self.places == 1
        return max((batch for batch, rank in self.gradient.items() if alone and rank == batch), default=0)

    @property
    def reading(self) -> str:
        """What that means, in a sentence."""
        if self.separates:
            exact = "its input" if self.bias else "its input up to a factor"
            found = f"the gradient gives {exact} at 1 record"
            if self.separates > 1:
                found += f", and the span of a batch's inputs up to {self.separates}"
        else:
            found = f"the gradient mixes {self.places} places of each record"
        onward = {
            True: "the input follows from the output",
            False: f"the output fixes at most {min(self.inputs, self.outputs)} of {self.inputs} inputs",
            None: "too large to say whether the input follows from the output",
        }[self.passes]
        if self.passes is False and self.forward is not None:
            onward = f"the output fixes {self.forward} of {self.inputs} inputs"
        return f"{found}; {onward}"


def layer_ranks(
    victim: Victim, state: State, batches: Sequence[int], *, training: bool, generator: torch.Generator
) -> list[LayerRank]:
    """Every linear and convolutional layer, in the order in which they run.

    Args:
        state: parameters and buffers to inspect at. batches: batch sizes.
        training: how clients run the network; dropout masks are then drawn.
    """
    exact = {name: v.double() if v.is_floating_point() else v for name, v in state.items()}
    ranks: dict[str, dict[int, int]] = {}
    for batch in batches:
        for name, rank in _gradient_ranks(victim, exact, batch, training, generator).items():
            ranks.setdefault(name, {})[batch] = rank
    return [_layer(name, *seen, ranks.get(name, {})) for name, seen in _shapes(victim, exact).items()]


def _gradient_ranks(
    victim: Victim, state: State, batch: int, training: bool, generator: torch.Generator
) -> dict[str, int]:
    model = victim.model
    images = torch.rand(batch, *victim.input_shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(victim.classes, (batch,), generator=generator)
    masks = model.draw_masks(batch, generator) if training else None
    gradient = victim.gradient(
        model.parameters_of(state), model.buffers_of(state), images, labels, training=training, masks=masks
    )
    weights = {name: value for name, value in gradient.items() if name.endswith("weight") and value.dim() > 1}
    return {name.removesuffix(".weight"): _rank(value.flatten(1)) for name, value in weights.items()}


def _shapes(victim: Victim, state: State) -> dict[str, tuple[Layer, torch.Size, torch.Size]]:
    """Layer, shape of its input and of its output for one record, by name, in the order of running."""
    seen: dict[str, tuple[Layer, torch.Size, torch.Size]] = {}
    hooks = []
    for name, module in victim.model.net.named_modules():
        if isinstance(module, Layer):

            def note(layer: Layer, given: tuple[Tensor], output: Tensor, name: str = name) -> None:
                seen[name] = layer, given[0].shape[1:], output.shape[1:]

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            victim.model(state, torch.zeros(1, *victim.input_shape), training=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _layer(
    name: str, layer: Layer, given: torch.Size, output: torch.Size, gradient: dict[int, int]
) -> LayerRank:
    inputs, outputs = math.prod(given), math.prod(output)
    forward = _forward_rank(layer, given) if inputs <= LARGEST else None
    return LayerRank(
        name=name,
        kind=type(layer).__name__,
        shape=tuple(layer.weight.shape),
        bias=layer.bias is not None,
        inputs=inputs,
        outputs=outputs,
        places=outputs // len(layer.weight),
        forward=forward,
        gradient=gradient,
    )


def _forward_rank(layer: Layer, given: torch.Size) -> int:
    """Rank of the layer's linear map, from its image of every unit vector."""
    if isinstance(layer, nn.Linear):
        return _rank(layer.weight.detach().double()) * math.prod(given[:-1])
    exact = copy.deepcopy(layer).double()  # the bias is added and taken off again: no rounding of it is rank
    basis = torch.eye(math.prod(given), dtype=torch.float64).view(-1, *given)
    with torch.no_grad():
        moved = exact(basis) - exact(torch.zeros(1, *given, dtype=torch.float64))
    return _rank(moved.flatten(1))


def _rank(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > TOLERANCE * values[0]).sum()) if float(values[0]) > 0 else 0
