"""Updates on a lattice: rounded to integers in the clients, noised there, and added up as integers."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.clients.rules import Carry, LocalRule, Sent, Work
from fedlab.errors import PluginError, UsageError
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.aggregators import AggregatorState, FunctionAggregator, mean
from fedlab.tasks import State
from fedlab_defenses.privacy import skellam
from fedlab_defenses.privacy.central import QuietRule

SLACK = 1.005
"""By how much rounding may lengthen an update."""
OFF = 0.25
"""Share of a step by which a value may miss its integer, having travelled as a float32 parameter."""
ROUNDING, NOISE = "ddp-rounding/", "ddp-noise/"


class SkellamRule(QuietRule):
    """Another rule, whose clients send clip(Δ) as integers with noise, in units of a step."""

    def __init__(self, inner: LocalRule, clip: float, step: float, variance: float, secure: bool) -> None:
        super().__init__("distributed-dp", inner)
        self.clip, self.step, self.variance, self.secure = clip, step, variance, secure

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        drawn = dict(self.inner.ending(parameters, generator))
        for name, value in parameters.items():
            shape = tuple(value.shape)
            bits = skellam.random_bits(value.numel(), generator, secure=self.secure) >> 10
            drawn[ROUNDING + name] = torch.from_numpy(bits * 2.0**-53).reshape(shape)
            drawn[NOISE + name] = skellam.skellam(shape, self.variance, generator, secure=self.secure)
        return drawn

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        sent = self.inner.finish(anchor, parameters, work, carry)
        moved = {name: value.double() - anchor[name].double() for name, value in sent.parameters.items()}
        whole = self.integers(moved, {name: work.draws[ROUNDING + name] for name in moved})
        noisy = {
            name: (value.double() + self.step * (whole[name] + work.draws[NOISE + name])).to(value.dtype)
            for name, value in anchor.items()
        }
        return sent._replace(parameters=noisy)

    def integers(self, moved: State, chances: State) -> State:
        """The clipped update in steps, rounded up where the chance (in [0, 1)) is below the remainder, and
        towards zero where that makes it longer than it may be."""
        norm = _norm(moved)
        factor = torch.where(norm > self.clip, self.clip / norm, torch.ones_like(norm)) / self.step
        exact = {name: value * factor for name, value in moved.items()}
        drawn = {
            name: value.floor() + (chances[name] < value - value.floor()).double()
            for name, value in exact.items()
        }
        fits = _norm(drawn) <= SLACK * self.clip / self.step
        return {name: torch.where(fits, value, exact[name].trunc()) for name, value in drawn.items()}


class OnLattice:
    """The mean of at least `minimum` updates whose values are multiples of a step, added up as integers.

    Attributes:
        largest: beyond which no value lies.
        masked: whether masks add the integers up instead.
    """

    name, counts_alike, coordinatewise = "distributed-dp", True, True

    def __init__(self, step: float, minimum: int, largest: float) -> None:
        self.step, self.minimum, self.largest = step, minimum, largest
        self.masked = False

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        exact = updates.deltas / self.step
        whole = exact.round()
        off = float((exact - whole).abs().max())
        if off > OFF:
            raise PluginError(
                f"distributed-dp: updates are off their integers by {off:.2f} steps of {self.step:g}: float32"
                " parameters cannot hold such steps, or something changed the updates; raise step, and put"
                " nothing but secagg-plus behind it"
            )
        return whole.sum(0) * (self.step / len(whole)), state

    def under_masks(self, defense: str, step: float, clip: float, threshold: int) -> Aggregator:
        """What is left to do where masks add up the integers: nothing but the mean of what they give.

        Raises:
            UsageError: the masked integers would not be these.
        """
        ratio = self.step / step
        if ratio < 1.0 or abs(ratio - round(ratio)) > 1e-9 * ratio:
            raise UsageError(
                f"{defense} rounds to multiples of {step:g} (2 clip / levels), which are none of"
                f" distributed-dp's step = {self.step:g}; choose both as powers of two, the latter larger"
            )
        if clip < self.largest:
            raise UsageError(
                f"{defense} clip = {clip:g} would cut noise off, which reaches {self.largest:.3g}; raise it"
                " and levels"
            )
        if threshold < self.minimum:
            raise UsageError(
                f"{defense} threshold = {threshold}, but distributed-dp has survivors = {self.minimum}: sums"
                " with too little noise would be opened; raise the threshold"
            )
        self.masked = True
        return FunctionAggregator(mean)


def _norm(parts: State) -> Tensor:
    return torch.stack([value.pow(2).sum() for value in parts.values()]).sum().sqrt()
