"""DLG and iDLG on sigmoid networks: images, soft labels, company, and what they ask for."""

from __future__ import annotations

import pytest
import torch
from attack_scene import convnet, scene, small_mlp, stream
from fedlab_attacks.recipes.deep_leakage import DeepLeakage, ImprovedDeepLeakage
from torch import nn

from fedlab.audit.observation import random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.errors import MissingKnowledge, UsageError

EVAL = ThreatModel(client_mode="eval")
both = pytest.mark.parametrize("attack", [DeepLeakage, ImprovedDeepLeakage])


def smooth() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))


@both
def test_images_and_labels_are_found(attack: type[ImprovedDeepLeakage]) -> None:
    real = scene(convnet, victims=3)
    answers = attack(iterations=300)(real.observations, EVAL, real.victim, generator=stream())
    assert float(real.psnr(answers).min()) >= 50.0
    assert all(a.labels is not None and a.labels.equal(t) for a, t in zip(answers, real.labels, strict=True))
    assert all(answer.residual < 1e-7 for answer in answers)


@both
def test_together_is_one_by_one(attack: type[ImprovedDeepLeakage]) -> None:
    """Rounding grows along a descent; what both find is the same image, to much less than a grey level."""
    real = scene(smooth, victims=3)
    found = attack(iterations=150, restarts=2)
    together = found(real.observations, EVAL, real.victim, generator=stream())
    for one, answer in zip(real.observations, together, strict=True):
        (alone,) = found([one], EVAL, real.victim, generator=stream())
        assert alone.images is not None and answer.images is not None
        torch.testing.assert_close(alone.images, answer.images, atol=1e-3, rtol=0)


def test_a_batch_with_inferred_labels() -> None:
    real = scene(convnet, victims=1, batch=2)
    answers = ImprovedDeepLeakage(iterations=400)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 40.0


@both
def test_a_random_update_scores_at_chance(attack: type[ImprovedDeepLeakage]) -> None:
    real = scene(smooth, victims=6)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(real.observations)]
    answers = attack(iterations=100)(twins, EVAL, real.victim, generator=stream())
    assert real.median(answers) < 12.0


@both
def test_the_scale_of_the_gradient_is_needed(attack: type[ImprovedDeepLeakage]) -> None:
    real = scene(smooth, victims=1)
    with pytest.raises(MissingKnowledge, match="learning_rate"):
        attack()(real.observations, ThreatModel(learning_rate=False), real.victim, generator=stream())


@both
@pytest.mark.parametrize("parameters", [{"iterations": 0}, {"restarts": 0}, {"memory": 0}])
def test_parameters_out_of_range(attack: type[ImprovedDeepLeakage], parameters: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        attack(**parameters)  # type: ignore[arg-type]


def test_an_unknown_device_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="device = 'gpu0'"):
        DeepLeakage(device="gpu0")


def test_dropout_defeats_it() -> None:
    """The published attack knows nothing of masks: on training clients it finds no image."""
    real = scene(small_mlp, victims=4)
    answers = ImprovedDeepLeakage(iterations=150)(
        real.observations, ThreatModel(), real.victim, generator=stream()
    )
    assert real.median(answers) <= 20.0
