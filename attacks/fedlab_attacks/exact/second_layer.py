"""The size of a record whose direction is known, from what the second linear layer was fed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab_attacks.exact.first_layer import sent
from fedlab_attacks.reading import Seen, probe, unchanged

MISFIT = 1e-2
"""Relative distance of inputs below which a size explains the second layer's."""
GRID = 257


def second_layer_size(
    observation: Observation, threat: ThreatModel, victim: Victim, brightest: Tensor
) -> float | None:
    """The factor in (0, 1] by which `brightest` (n,) explains the second linear layer's input, or None.

    That input is ∂W / ∂b of the second layer; units that dropout or the activation silenced are zero there
    and left out. All factors of a grid are one batch, and the grid closes in on the best three times.
    """
    state = sent(observation)
    image = brightest.float().reshape(victim.input_shape)

    def second(factors: Tensor, masks: bool) -> Seen | None:
        images = factors.float().view(-1, *([1] * image.dim())) * image
        shapes = victim.model.mask_shapes
        kept = {name: torch.ones(len(images), *shape) for name, shape in shapes.items()} if masks else None
        layers = probe(victim, state, images, kept)
        linear = len(layers) > 1 and isinstance(layers[1].layer, nn.Linear) and layers[1].input.dim() == 2
        return layers[1] if linear and layers[1].layer.bias is not None else None

    seen = second(torch.ones(1), False)
    if seen is None:
        return None
    try:
        unchanged(victim, f"{seen.name}.weight", f"{seen.name}.bias")
    except NotApplicable:
        return None
    weight = observation.update[f"{seen.name}.weight"].double()
    bias = observation.update[f"{seen.name}.bias"].double()
    if not bool(bias.any()):
        return None
    target = bias @ weight / bias.square().sum()
    used = (weight != 0).any(dim=0)
    if not bool(used.any()):
        return None
    # Without dropout every unit must fit, so that explanation goes first; with it, units may be missing, and
    # a homogeneous activation would let half the image at twice the size pass.
    modes = {"train": [True], "eval": [False], None: [False, True]}[threat.client_mode]
    if not threat.grants("dropout_rate"):
        modes = [False]  # how much kept units are scaled is unknown
    for masks in modes:
        low, high = 0.0, 1.0
        for _ in range(4):
            factors = torch.linspace(low, high, GRID, dtype=torch.float64)
            layer = second(factors, masks)
            if layer is None:
                return None
            off = layer.input.double() - target
            misfit = (off[:, used] if masks else off).norm(dim=1) / target.norm()
            at = int(misfit.argmin())
            width = (high - low) / (GRID - 1)
            low, high = max(0.0, float(factors[at]) - width), min(1.0, float(factors[at]) + width)
        if float(misfit[at]) < MISFIT:
            return float(factors[at])
    return None
