"""Gradient matching: images (and dropout masks) whose gradient points where the observed update points.

Equation 4 of J. Geiping, H. Bauermeister, H. Dröge and M. Moeller, "Inverting Gradients: How easy is it to
break privacy in federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053:

    minimise over x in the pixel box   1 - <∇L(x), g> / (‖∇L(x)‖ ‖g‖) + α TV(x)

by Adam on the sign of the image's gradient, its step divided by ten after 3/8, 5/8 and 7/8 of the iterations.

All victims and restarts are descended together in one graph; parameters carry a victim axis, because victims
may come from different rounds. They do not interact: each has its own residual, keeps its own best iterate
(chosen by that residual, which an attacker has) and leaves the batch once explained. Deviations: the distance
is computed as ‖ĝ/‖ĝ‖ - g/‖g‖‖² / 2, which equals 1 - cos, but has no cancellation when that gets small; the
weight of the total variation falls with the step (a prior is needed to find the basin and biases the answer
in it); the returned iterate is the one of least residual, not the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.tasks import State
from fedlab_attacks.reading import Ticker

TINY = 1e-12
CHECK_EVERY = 25
PARALLEL = 2**22
"""Gradient coordinates that one graph may hold: 16 MB in float32, about what caches keep."""


class CosineDistance(torch.autograd.Function):
    """1 - cos (V,) between gradients and targets, both given tensor by tensor, (V, ...) each.

    Written by hand because it is most of an iteration: with u = ĝ/‖ĝ‖ and d = u - t the distance r is
    ‖d‖²/2 and its derivative with respect to ĝ is (d - r u) / ‖ĝ‖. d lives in `scratch`, which the backward
    pass turns into that derivative in place: fresh memory for tensors of this size costs more than the
    arithmetic. So one backward pass at most, before the next forward pass.
    """

    @staticmethod
    def forward(ctx: Any, negated: list[Tensor], scratch: list[Tensor], *gradients: Tensor) -> Tensor:
        zero = gradients[0].new_zeros(len(gradients[0]))
        norm = sum((_squares(g) for g in gradients), zero).sqrt_().clamp_min_(TINY)
        for d, t, g in zip(scratch, negated, gradients, strict=True):
            torch.addcmul(t, g, like(1 / norm, g), out=d)
        distance = sum((_squares(d) for d in scratch), zero) / 2
        ctx.scratch = scratch
        ctx.save_for_backward(norm, distance, *gradients)
        return distance

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        norm, distance, *gradients = ctx.saved_tensors
        along, across = outputs[0] / norm, -outputs[0] * distance / norm.square()
        for d, g in zip(ctx.scratch, gradients, strict=True):
            d.mul_(like(along, d)).addcmul_(g, like(across, g))
        return None, None, *ctx.scratch


@dataclass(frozen=True)
class Candidates:
    """One candidate per victim: images (V, B, C, H, W), keep-masks (V, B, ...), residuals (V,)."""

    images: Tensor
    masks: State
    residual: Tensor

    def pick(self, rows: Tensor) -> Candidates:
        """The candidates of some victims."""
        return Candidates(self.images[rows], {n: m[rows] for n, m in self.masks.items()}, self.residual[rows])

    def or_better(self, other: Candidates) -> Candidates:
        """Victim by victim, the candidate of lower residual."""
        take = other.residual < self.residual
        return Candidates(
            torch.where(like(take, self.images), other.images, self.images),
            {n: torch.where(like(take, m), other.masks[n], m) for n, m in self.masks.items()},
            torch.where(take, other.residual, self.residual),
        )

    def put(self, rows: Tensor, other: Candidates) -> Candidates:
        """These candidates, with those of some victims replaced."""
        return Candidates(
            self.images.index_copy(0, rows, other.images),
            {n: m.index_copy(0, rows, other.masks[n]) for n, m in self.masks.items()},
            self.residual.index_copy(0, rows, other.residual),
        )

    def best_of(self, restarts: int) -> Candidates:
        """The least residual among each victim's `restarts` consecutive candidates."""
        table = self.residual.nan_to_num(nan=torch.inf).view(-1, restarts)
        return self.pick(torch.arange(len(table)) * restarts + table.argmin(dim=1))


@dataclass(frozen=True)
class Matching:
    """Observed gradients to be explained, stacked over victims.

    Attributes:
        parameters, buffers: (V, ...) each.
        negated: minus the observed gradient (V, ...), of unit length over all tensors together.
        labels: (V, B). training: batch statistics in batch norm.
    """

    victim: Victim
    parameters: State
    buffers: State
    negated: State
    labels: Tensor
    training: bool

    @cached_property
    def _scratch(self) -> State:
        return {name: torch.empty_like(value) for name, value in self.negated.items()}

    @staticmethod
    def of(
        victim: Victim, observations: Sequence[Observation], labels: Tensor, *, training: bool
    ) -> Matching:
        """Stack observations with their labels (V, B)."""
        model = victim.model
        targets = []
        for observation in observations:
            gradient = {name: value.double() for name, value in observation.gradient().items()}
            norm = torch.sqrt(
                sum((gradient[n].square().sum() for n in model.parameter_names), torch.zeros(()))
            )
            targets.append({n: (gradient[n] / -norm).float() for n in model.parameter_names})
        return Matching(
            victim,
            _stack([model.parameters_of(observation.before) for observation in observations]),
            _stack([observation.buffers_before for observation in observations]),
            _stack(targets),
            labels,
            training,
        )

    def pick(self, rows: Tensor) -> Matching:
        """The problem of some victims."""
        return replace(
            self,
            parameters={n: v[rows] for n, v in self.parameters.items()},
            buffers={n: v[rows] for n, v in self.buffers.items()},
            negated={n: v[rows] for n, v in self.negated.items()},
            labels=self.labels[rows],
        )

    def distance(self, images: Tensor, masks: State) -> Tensor:
        """1 - cos (V,) between observed and simulated gradients; no masks means no dropout."""

        def gradient(parameters: State, buffers: State, x: Tensor, y: Tensor, keep: State) -> State:
            return self.victim.gradient(parameters, buffers, x, y, training=self.training, masks=keep or None)

        simulated = vmap(gradient)(self.parameters, self.buffers, images, self.labels, masks)
        names = list(self.negated)
        result: Tensor = CosineDistance.apply(  # type: ignore[no-untyped-call]
            list(self.negated.values()), list(self._scratch.values()), *(simulated[name] for name in names)
        )
        return result

    def start(self, images: Tensor, masks: State | None = None) -> Candidates:
        """Candidates to descend from, with no residual known yet."""
        return Candidates(images, masks or {}, torch.full((len(images),), torch.inf))


@dataclass(frozen=True)
class Descent:
    """How to descend; the defaults are those of Geiping et al., with DIA's weights for masks.

    Attributes:
        iterations, step: how many, and Adam's first step.
        total_variation: weight of the mean absolute difference of neighbouring pixels, one or (V,).
        rates: drop rate by dropout layer, if the masks are variables too; None keeps them fixed.
        mask_rate: weight of |1 - mean(mask) - rate|, summed over dropout layers.
        decays: fractions of the iterations after which step and total variation are divided by ten.
        tolerance: a victim whose residual falls below leaves early.
    """

    iterations: int
    step: float = 0.1
    total_variation: float | Tensor = 1e-5
    rates: dict[str, float] | None = None
    mask_rate: float = 1e-4
    decays: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)
    tolerance: float = 1e-11

    def __call__(self, matching: Matching, start: Candidates, ticker: Ticker) -> Candidates:
        """Descend from `start`; each victim's iterate of least residual (never worse than its start)."""
        alive = torch.arange(len(start.images))
        result, current = start, start
        flat = self._flatten(start)
        pixels = start.images[0].numel()
        best, residual = flat, torch.full((len(flat),), torch.inf)
        mean, square = torch.zeros_like(flat), torch.zeros_like(flat)
        drops = {int(fraction * self.iterations) for fraction in self.decays}
        step, prior = self.step, self.total_variation * torch.ones(len(flat))
        for i in range(self.iterations):
            leaf = flat.detach().requires_grad_()
            candidate = self._unflatten(leaf, current)
            distance = matching.distance(candidate.images, candidate.masks)
            (slope,) = torch.autograd.grad((distance + self._penalty(candidate, prior)).sum(), leaf)
            distance = distance.detach()
            better = distance < residual
            residual = torch.where(better, distance, residual)
            best = torch.where(better[:, None], flat, best)
            slope.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            slope[:, :pixels].sign_()
            if i in drops:
                step, prior = step * 0.1, prior * 0.1
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = (square / (1 - 0.999 ** (i + 1))).sqrt_().add_(1e-8)
            flat = flat.addcdiv(mean, scale, value=-step / (1 - 0.9 ** (i + 1))).clamp_(0.0, 1.0)
            if (i + 1) % CHECK_EVERY and i + 1 < self.iterations:
                continue
            ticker.advance(CHECK_EVERY if (i + 1) % CHECK_EVERY == 0 else (i + 1) % CHECK_EVERY)
            open_ = residual >= self.tolerance
            if i + 1 < self.iterations and bool(open_.all()):
                continue
            found = replace(self._unflatten(best, current), residual=residual)
            result = result.put(alive, found)
            rows = open_.nonzero().flatten()
            alive, matching, current = alive[rows], matching.pick(rows), current.pick(rows)
            flat, best, residual = flat[rows], best[rows], residual[rows]
            mean, square, prior = mean[rows], square[rows], prior[rows]
            if len(rows) == 0:
                ticker.advance(self.iterations - i - 1)
                break
        return result

    def _penalty(self, candidate: Candidates, prior: Tensor) -> Tensor:
        penalty = prior * total_variation(candidate.images)
        for name, rate in (self.rates or {}).items():
            kept = candidate.masks[name].flatten(1).mean(1)
            penalty = penalty + self.mask_rate * (1.0 - kept - rate).abs()
        return penalty

    def _flatten(self, candidate: Candidates) -> Tensor:
        """All variables of a victim in one row (V, N): a step is then a handful of operations."""
        parts = [candidate.images, *(candidate.masks[name] for name in self.rates or {})]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _unflatten(self, flat: Tensor, like: Candidates) -> Candidates:
        names = list(self.rates or {})
        shapes = [like.images.shape[1:], *(like.masks[name].shape[1:] for name in names)]
        parts = torch.split(flat, [shape.numel() for shape in shapes], dim=1)
        images, *masks = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        return Candidates(images, {**like.masks, **dict(zip(names, masks, strict=True))}, like.residual)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (V,) for images (V, B, C, H, W)."""
    zero = images.new_zeros(len(images))
    across = (images[..., 1:] - images[..., :-1]).abs().flatten(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    return sum((d.mean(1) for d in (across, down) if d.shape[1]), zero)


def parallel(victim: Victim) -> int:
    """How many victims and restarts one graph should hold for this network."""
    size = sum(value.numel() for value in victim.model.parameters_of(victim.model.state()).values())
    return max(1, PARALLEL // max(size, 1))


def own_generator(seed: int, observation: Observation) -> torch.Generator:
    """A victim's own stream, so that it gets the same start alone as in company."""
    mixed = seed + 1_000_003 * observation.round + 7_919 * observation.client
    return torch.Generator().manual_seed(mixed % 2**63)


def keep_freed_memory() -> None:
    """Ask the allocator for a large block and drop it, so that glibc keeps what is freed from now on.

    glibc hands freed blocks beyond a threshold back to the kernel, and the next iteration pays for every page
    again (half of its time, measured on a 85 000-parameter network). Freeing a block of just under 32 MB
    raises that threshold for the process (mallopt(3), M_MMAP_THRESHOLD). The block is never touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _squares(value: Tensor) -> Tensor:
    """Squared norm per victim, without a temporary."""
    norm: Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1)
    return norm.square()


def like(rows: Tensor, value: Tensor) -> Tensor:
    """(V,) shaped to broadcast against (V, ...)."""
    return rows.view(-1, *([1] * (value.dim() - 1)))


def _stack(states: Sequence[State]) -> State:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
