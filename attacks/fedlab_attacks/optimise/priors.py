"""What images and masks are taken to be like before any gradient is seen: terms (V,) that are added."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.variables import Variables


def total_variation(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Mean absolute difference of neighbouring pixels."""
    return variation(variables.images)


def variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (V,) for images (V, R, C, H, W)."""
    zero = images.new_zeros(len(images))
    across = (images[..., 1:] - images[..., :-1]).abs().flatten(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    return sum((d.mean(1) for d in (across, down) if d.shape[1]), zero)


def mask_rates(rates: Mapping[str, float]) -> Term:
    """The sum over dropout layers of |1 - mean(mask) - rate|."""

    def term(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        penalty = variables.images.new_zeros(len(variables))
        for name, rate in rates.items():
            penalty = penalty + (1.0 - variables.masks[name].flatten(1).mean(1) - rate).abs()
        return penalty

    return term
