"""What candidates are taken to be like before any gradient is seen: terms (V,) added to an objective.

- total variation: L. Rudin, S. Osher and E. Fatemi, Physica D 1992, anisotropic as attacks have it.
- box: pixels lie in [0, 1]; for descents that do not clamp them.
- energy and consistency: H. Yin et al., "See through Gradients: Image Batch Recovery via GradInversion", CVPR
  2021, https://arxiv.org/abs/2104.07586: the L2 norm, and the pull towards what the restarts of a victim
  agree on. Deviations: mean squares, so that weights mean the same at every image size; the consensus is the
  mean image, without registration.
- norm statistics: H. Yin et al., "Dreaming to Distill", CVPR 2020, https://arxiv.org/abs/1912.08795, equation
  4: Σ_l ‖μ̂_l - μ_l‖₂ + ‖σ̂²_l - σ²_l‖₂ over norm layers, with targets from `statistics`.
- mask rates: D. Scheliga, P. Mäder and M. Seeland, "Dropout is NOT All You Need to Prevent Gradient Leakage",
  AAAI 2023, https://arxiv.org/abs/2208.06163.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
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


def box(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Mean squared distance of pixels from [0, 1]."""
    outside = variables.images - variables.images.clamp(0.0, 1.0)
    return outside.square().flatten(1).mean(1)


def energy(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Mean squared pixel."""
    return variables.images.square().flatten(1).mean(1)


def consistency(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """Mean squared distance to the mean image of the same victim's rows; 0 for a row without company."""
    images = variables.images.flatten(1)
    same = (problem.owner[:, None] == problem.owner).to(images.dtype)
    consensus = (same / same.sum(1, keepdim=True)) @ images
    return (images - consensus).square().mean(1)


def norm_statistics(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """The sum over the layers of `problem.statistics` of the L2 distances of means and of variances.

    The recipe must ask for `Simulated.statistics`.
    """
    distance = variables.images.new_zeros(len(variables))
    for name, expected in problem.statistics.items():
        for found, target in zip(simulated.statistics[name], expected, strict=True):
            distance = distance + torch.linalg.vector_norm(found - target, dim=1)
    return distance


def noise_size(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
    """The mean square of the noise that stochastic layers are given, over all layers; of normal noise, 1."""
    parts = [variables.noise[name].flatten(1) for name in problem.victim.model.noise_shapes]
    return torch.cat(parts, dim=1).square().mean(1)


def mask_rates(rates: Mapping[str, float]) -> Term:
    """The sum over dropout layers of |1 - mean(mask) - rate|."""

    def term(problem: Problem, variables: Variables, simulated: Simulated) -> Tensor:
        penalty = variables.images.new_zeros(len(variables))
        for name, rate in rates.items():
            penalty = penalty + (1.0 - variables.masks[name].flatten(1).mean(1) - rate).abs()
        return penalty

    return term
