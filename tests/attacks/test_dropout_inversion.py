"""Dropout inversion on digits: masks read off, masks found, and the cases without any."""

from __future__ import annotations

import pytest
from attack_scene import Scene, mlp, scene, small_mlp, stream
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion, mask_readers
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from fedlab.audit.threat import ThreatModel


@pytest.fixture(scope="module")
def dropped() -> Scene:
    return scene(mlp, victims=4)


def test_ignoring_dropout_fails_and_modelling_it_succeeds(dropped: Scene) -> None:
    arguments = (dropped.observations, ThreatModel(), dropped.victim)
    ignoring = InvertingGradients(iterations=200)(*arguments, generator=stream())
    modelling = DropoutInversion(iterations=400)(*arguments, generator=stream())
    assert dropped.median(ignoring) <= 15.0
    assert dropped.median(modelling) >= 50.0
    assert {answer.details["found by"] for answer in modelling} == {"masks read off"}


def test_joint_masks_succeed_without_reading_any_off(dropped: Scene) -> None:
    attack = DropoutInversion(iterations=250, read_masks=False)
    answers = attack(dropped.observations, ThreatModel(), dropped.victim, generator=stream())
    assert {answer.details["found by"] for answer in answers} == {"joint masks"}
    assert dropped.median(answers) >= 30.0


def test_dropout_inversion_on_a_batch() -> None:
    real = scene(mlp, victims=1, batch=2)
    answers = DropoutInversion(iterations=400)(
        real.observations, ThreatModel(), real.victim, generator=stream()
    )
    assert real.median(answers) >= 25.0


@pytest.mark.parametrize("mode", ["eval", None])
def test_dropout_inversion_holds_when_the_client_ran_without_dropout(mode: str | None) -> None:
    real = scene(victims=2, mode="eval")
    threat = ThreatModel(client_mode=mode)  # type: ignore[arg-type]
    answers = DropoutInversion(iterations=150)(real.observations, threat, real.victim, generator=stream())
    assert real.median(answers) >= 30.0


def test_dropout_inversion_is_inverting_gradients_for_a_network_without_dropout() -> None:
    real = scene(lambda: mlp(p=0.0, width=32), victims=2)
    arguments = (real.observations, ThreatModel(), real.victim)
    ours = DropoutInversion(iterations=50)(*arguments, generator=stream())
    plain = InvertingGradients(iterations=50)(*arguments, generator=stream())
    for a, b in zip(ours, plain, strict=True):
        assert a.images is not None and b.images is not None and a.images.equal(b.images)


def test_mask_readers_are_the_layers_behind_dropout() -> None:
    real = scene(small_mlp, victims=1)
    assert mask_readers(real.victim, real.observations[0]) == {"3": "4", "6": "7"}

    def two_dimensional() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),  # element by element before a convolution: no column of its own
            nn.Conv2d(4, 2, 3, padding=1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    other = scene(two_dimensional, victims=1)
    assert mask_readers(other.victim, other.observations[0]) == {"2": "3", "8": "9"}
