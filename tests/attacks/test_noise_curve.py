"""Calibrated noise on the update: the more of it, the less an attack finds, and it never finds more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from attack_scene import Scene, convnet, scene, small_mlp, stream
from fedlab_attacks.cascade import Cascade
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from benchmarks.attacks.curves import Curve, noisy
from fedlab.audit import Attack, ThreatModel

RATIOS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def curve(attack: Attack, real: Scene) -> Curve:
    """PSNR of every victim at each ratio of noise to update."""
    found = []
    for ratio in RATIOS:
        seen = noisy(real.observations, ratio)
        answers = attack(seen, ThreatModel(), real.victim, generator=stream())
        found.append(real.psnr(answers).flatten().tolist())
    return Curve("noise", RATIOS, found)


@pytest.mark.parametrize(
    ("attack", "network"),
    [
        (LinearLayer(), small_mlp),
        (Cascade(iterations=25), small_mlp),
        (InvertingGradients(iterations=80), convnet),
    ],
)
def test_the_leak_falls_with_noise_and_no_step_up_is_beyond_its_interval(
    attack: Attack, network: Callable[[], nn.Module]
) -> None:
    found = curve(attack, scene(network, victims=6))
    assert found.rises() == []
    assert found.fall.low > 5.0
    assert found.medians[-1] < 12.0  # the mean digit scores 11.5 dB


def test_noise_is_calibrated_to_the_update_and_scales() -> None:
    (seen,) = scene(victims=1).observations
    (small,), (large,) = noisy([seen], 0.1), noisy([seen], 0.2)
    for name, value in seen.update.items():
        assert (2 * (small.update[name] - value)).allclose(large.update[name] - value, atol=1e-6)
    added = replace(seen, update={name: small.update[name] - value for name, value in seen.update.items()})
    assert added.norm() == pytest.approx(0.1 * seen.norm(), rel=1e-4)


def test_curves_by_hand() -> None:
    """Two victims: 30 and 32 dB, then 20 and 22, then 25 and 27: ten down is a fall, five up is a rise."""
    found = Curve("knob", (0.0, 1.0, 2.0), [[30.0, 32.0], [20.0, 22.0], [25.0, 27.0]])
    assert found.medians == [31.0, 21.0, 26.0]
    assert [step.mean for step in found.steps()] == [-10.0, 5.0]
    assert found.rises() == [2.0] and str(found).startswith("rises at 2;")
    assert found.fall.mean == 5.0
    level = Curve("knob", (0.0, 1.0), [[30.0, 20.0], [20.0, 30.0]])
    assert level.rises() == [] and str(level).startswith("is flat")
    assert str(Curve("knob", (0.0, 1.0), found.psnrs[:2])).startswith("falls; first less last +10.0 dB")
