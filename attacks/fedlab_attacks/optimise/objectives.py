"""Distances between the observed and the simulated update, (V,) each: what an attacker can measure.

    cosine    1 - <u, g> / (‖u‖ ‖g‖)   free of scale; J. Geiping et al., "Inverting Gradients", NeurIPS 2020,
                                       https://arxiv.org/abs/2003.14053, equation 4
    l2        ‖u - g‖² / ‖g‖²          L. Zhu, Z. Liu and S. Han, "Deep Leakage from Gradients", NeurIPS 2019,
                                       https://arxiv.org/abs/1906.08935; theirs is not divided by ‖g‖², which
                                       makes residuals of different updates comparable
    sign      1 - <u, sign g> / ‖u‖₁   twice the share of ‖u‖₁ where signs differ: for updates that were
                                       compressed to signs

`layered` and `masked` make an objective of an objective: with weights per parameter, and on the coordinates
that were sent.

Deviation: the cosine distance is computed as ‖u/‖u‖ - g/‖g‖‖² / 2, which equals 1 - cos, but has no
cancellation when that gets small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.problem import Problem, like
from fedlab_attacks.optimise.variables import Variables

TINY = 1e-12


class CosineDistance(torch.autograd.Function):
    """1 - cos (V,) between gradients and targets of unit length, both given tensor by tensor, (V, ...) each.

    Written by hand because it is most of an iteration: with u = ĝ/‖ĝ‖ and d = t - u the distance r is
    ‖d‖²/2 and its derivative with respect to ĝ is -(d + r u) / ‖ĝ‖. d lives in `scratch`, which the backward
    pass turns into that derivative in place: fresh memory for tensors of this size costs more than the
    arithmetic. So one backward pass at most, before the next forward pass.
    """

    @staticmethod
    def forward(ctx: Any, targets: list[Tensor], scratch: list[Tensor], *gradients: Tensor) -> Tensor:
        zero = gradients[0].new_zeros(len(gradients[0]))
        norm = sum((_squares(g) for g in gradients), zero).sqrt_().clamp_min_(TINY)
        for d, t, g in zip(scratch, targets, gradients, strict=True):
            torch.addcmul(t, g, like(-1 / norm, g), out=d)
        distance = sum((_squares(d) for d in scratch), zero) / 2
        ctx.scratch = scratch
        ctx.save_for_backward(norm, distance, *gradients)
        return distance

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        norm, distance, *gradients = ctx.saved_tensors
        along, across = -outputs[0] / norm, -outputs[0] * distance / norm.square()
        for d, g in zip(ctx.scratch, gradients, strict=True):
            d.mul_(like(along, d)).addcmul_(g, like(across, g))
        return None, None, *ctx.scratch


def cosine(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """1 - cos; at most once per descent, for it works in `problem.scratch`."""
    gradients = [simulated.update[name] for name in problem.target]
    distance: Tensor = CosineDistance.apply(  # type: ignore[no-untyped-call]
        list(problem.target.values()), problem.scratch, *gradients
    )
    return distance


def l2(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Squared distance over the observed update's squared length."""
    parts = [
        (simulated.update[name] / like(problem.norm, target) - target).square().flatten(1).sum(1)
        for name, target in problem.target.items()
    ]
    return torch.stack(parts).sum(0)


def sign(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """In [0, 2]; 0 where all signs agree. Coordinates that were sent as zero have no sign."""
    agreed, size = torch.zeros_like(problem.norm), torch.zeros_like(problem.norm)
    for name, target in problem.target.items():
        signs = target.sign()
        update = simulated.update[name] * signs
        agreed = agreed + update.flatten(1).sum(1)
        size = size + update.abs().flatten(1).sum(1)
    return 1 - agreed / size.clamp_min(TINY)


def masked(objective: Term) -> Term:
    """The objective on the coordinates that were sent: what is exactly zero in the update was left out.

    For pruned and sparsified updates, whose missing coordinates say nothing about the gradient there.
    """

    def term(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        sent = {name: simulated.update[name] * (target != 0) for name, target in problem.target.items()}
        return objective(problem, variables, simulated._replace(update=sent))

    return term


def layered(objective: Term, weights: Mapping[str, float] | None = None) -> Term:
    """The objective with both updates multiplied by the root of a weight per parameter.

    Args:
        weights: of each shared parameter; None is exp(-depth) in the module's order, so that early layers,
            which see the image, count most (J. Deng et al., "TAG: Gradient Attack on Transformer-based
            Language Models", 2021, https://arxiv.org/abs/2103.06819, has such a scale).
    """

    def term(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        names = list(problem.target)
        given = weights or {name: math.exp(-depth) for depth, name in enumerate(names)}
        roots = {name: math.sqrt(given[name]) for name in names}
        target = {name: value * roots[name] for name, value in problem.target.items()}
        length = torch.stack([_squares(value) for value in target.values()]).sum(0).sqrt().clamp_min(TINY)
        target = {name: value / like(length, value) for name, value in target.items()}
        return objective(
            replace(problem, target=target, norm=problem.norm * length),
            variables,
            simulated._replace(update={name: simulated.update[name] * roots[name] for name in names}),
        )

    return term


def _squares(value: Tensor) -> Tensor:
    """Squared norm per row, without a temporary."""
    norm: Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1)
    return norm.square()
