"""The direction of one step, from what was recorded of it: a local rule's, of an app's own network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedlab.apps.architecture import PREFIX, FromPixels
from fedlab.apps.contract import Step
from fedlab.apps.pixels import PixelRange
from fedlab.clients.gradients import Gradients, linear_layers
from fedlab.clients.rules import Batch, Carry, LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.task import cross_entropy


class Moved(NamedTuple):
    """Where a step goes, by names of tensors, and what the rule carries on."""

    direction: State
    carry: Carry


class Stepping:
    """Directions of steps on one network.

    Args:
        network: as clients have it.
        inner: shape of a record as the network is fed with it.
        pixels: what black and white are to the network, for rules that move pixels; None leaves inputs as
            they are.
        shape: (C, H, W) of a record as an image.

    Raises:
        UsageError: the network cannot be run as a pure function.
    """

    def __init__(
        self,
        network: nn.Module,
        inner: torch.Size,
        pixels: PixelRange | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self._pixels = pixels
        self._shape = torch.Size(shape) if shape is not None and pixels is not None else inner
        one = torch.ones(())
        plain = PixelRange(0.0 * one, one, "as they are", "recorded")
        try:
            self.model = FunctionalModel(FromPixels(network, pixels or plain, inner), self._shape)
        except Exception as error:  # somebody else's network
            raise UsageError(f"the network cannot be run as a pure function: {error}") from error
        self._layers = linear_layers(self.model)

    def direction(
        self, rule: LocalRule, network: nn.Module, step: Step, carry: Carry, generator: torch.Generator
    ) -> Moved:
        """The rule's direction at the client's own network, for the batch of a step.

        Raises:
            UsageError: the labels are no labels of classes.
        """
        now = {PREFIX + name: value.detach().cpu() for name, value in network.state_dict().items()}
        state = self.model.state() | {name: value for name, value in now.items() if name in self._names}
        parameters, buffers = self.model.parameters_of(state), self.model.buffers_of(state)
        batch = self._batch(rule, step, parameters, generator, training=network.training)

        def by_inputs(values: State, x: Tensor, y: Tensor) -> Tensor:
            def total(inputs: Tensor) -> Tensor:
                outputs, _ = self.model({**values, **buffers}, inputs, training=False)
                return cross_entropy(outputs, y).sum()

            slope: Tensor = torch.func.grad(total)(x)
            return slope

        gradients = Gradients(
            self.model,
            cross_entropy,
            buffers,
            training=network.training,
            expand=rule.expand,
            layers=self._layers,
        )
        with torch.enable_grad():
            met = rule.perturb(by_inputs, parameters, batch)
            found, _, after = rule.direction(gradients, parameters, met, carry)
        return Moved({name: value.detach() for name, value in found.items()}, after)

    @property
    def _names(self) -> frozenset[str]:
        return frozenset((*self.model.parameter_names, *self.model.buffer_names))

    def _batch(
        self, rule: LocalRule, step: Step, parameters: State, generator: torch.Generator, *, training: bool
    ) -> Batch:
        targets, count = step.targets, len(step.inputs)
        if targets is None or targets.is_floating_point() or targets.dim() != 1:
            raise UsageError("targets are no labels of classes, one per record")
        x = step.inputs.float().reshape(-1, *self._shape)
        if self._pixels is not None:
            x = self._pixels.unit(x)
        return Batch(
            x=x,
            y=targets.long(),
            rows=torch.ones(count),
            masks=self.model.draw_masks(count, generator) if training else {},
            draws=rule.draws(parameters, generator),
            size=torch.tensor(float(count)),
            noise=rule.noise(x.shape, generator),
            samples=self.model.draw_noise(count, generator) if training else {},
        )
