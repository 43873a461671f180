"""What probing tells of a linear first layer: how pixels reach it, and whether a ReLU stands behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.reading import Seen, probe

PROBES = 16
ZERO = 1e-5
"""Preactivations nearer to 0 than this have no sign that float32 would vouch for."""


def sent(observation: Observation) -> State:
    """The whole state that the client started from."""
    return {**observation.before, **observation.buffers_before}


def first_layer(
    observation: Observation, victim: Victim, generator: torch.Generator
) -> tuple[Seen, Tensor, Tensor]:
    """The first layer with parameters, and (scale, shift) (n,) with: its input = scale * pixels + shift.

    Raises:
        NotApplicable: it is not linear, or not fed with each pixel once.
    """
    pixels = torch.rand(2, *victim.input_shape, generator=generator)
    images = torch.stack([torch.zeros_like(pixels[0]), torch.ones_like(pixels[0]), *pixels])
    masks = victim.model.draw_masks(len(images), generator)
    layers = probe(victim, sent(observation), images, masks or None)
    first = layers[0] if layers else None
    if first is None or not isinstance(first.layer, nn.Linear):
        kind = type(first.layer).__name__ if first else "nothing"
        raise NotApplicable(f"the first layer with parameters is {kind}, not a linear layer on the pixels")
    if first.layer.in_features != math.prod(victim.input_shape) or first.input.dim() != 2:
        raise NotApplicable(
            f"the first linear layer has {first.layer.in_features} inputs; expected one per pixel,"
            f" {math.prod(victim.input_shape)}"
        )
    fed = first.input.double()
    shift, scale = fed[0], fed[1] - fed[0]
    expected = images[2:].flatten(1).double() * scale + shift
    if bool((scale == 0).any()) or not torch.allclose(fed[2:], expected, atol=1e-4):
        raise NotApplicable(
            "the first linear layer is not fed with the pixels themselves (something mixes or drops them"
            " before it)"
        )
    return first, scale, shift


def rectified(observation: Observation, victim: Victim, layer: nn.Module, generator: torch.Generator) -> bool:
    """Whether a ReLU follows: the outputs answer to a unit of `layer` where it is above 0, and only there."""
    images = torch.rand(PROBES, *victim.input_shape, generator=generator).requires_grad_()
    seen: list[Tensor] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    hook = layer.register_forward_hook(note)
    try:
        outputs, _ = victim.model(sent(observation), images, training=False)
    finally:
        hook.remove()
    weights = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)
    (slope,) = torch.autograd.grad((outputs * weights).sum(), seen[0])
    below, above = seen[0] < -ZERO, seen[0] > ZERO
    return not bool(slope[below].any()) and bool(below.any()) and bool(slope[above].any())


def weights(observation: Observation, layer: Seen) -> tuple[Tensor, Tensor]:
    """[W b] (units, n + 1), or W without a bias: as it was sent, and as it came back; float64."""
    names = [f"{layer.name}.{kind}" for kind in ("weight", "bias")[: 1 + (layer.layer.bias is not None)]]
    before = [observation.before[name].double() for name in names]
    after = [value + observation.update[name].double() for value, name in zip(before, names, strict=True)]
    old, new = (torch.cat([one.reshape(len(one), -1) for one in side], dim=1) for side in (before, after))
    return old, new
