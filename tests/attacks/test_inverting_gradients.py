"""Inverting gradients on digits: where it succeeds, what chooses between candidates, company and restarts."""

from __future__ import annotations

import torch
from attack_scene import convnet, mlp, scene, stream
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from fedlab.audit.threat import ThreatModel

EVAL = ThreatModel(client_mode="eval")


def test_inverting_gradients_succeeds_on_clients_in_evaluation_mode() -> None:
    real = scene(victims=4, mode="eval")
    answers = InvertingGradients(iterations=250)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 40.0
    assert all(a.labels is not None and a.labels.equal(t) for a, t in zip(answers, real.labels, strict=True))


def test_inverting_gradients_succeeds_on_a_small_convnet() -> None:
    real = scene(convnet, victims=2)
    answers = InvertingGradients(iterations=300)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 25.0


def test_inverting_gradients_succeeds_on_a_batch() -> None:
    real = scene(mlp, victims=1, batch=4, mode="eval")
    answers = InvertingGradients(iterations=400)(real.observations, EVAL, real.victim, generator=stream())
    assert real.median(answers) >= 30.0


def test_several_weights_of_the_prior_compete_by_residual() -> None:
    real = scene(victims=2, mode="eval")
    single = InvertingGradients(iterations=150, total_variation=10.0)
    both = InvertingGradients(iterations=150, total_variation=[10.0, 1e-5])
    blurred = single(real.observations, EVAL, real.victim, generator=stream())
    chosen = both(real.observations, EVAL, real.victim, generator=stream())
    assert all(b.residual < a.residual for a, b in zip(blurred, chosen, strict=True))
    assert real.median(chosen) > real.median(blurred) + 10.0


def test_together_is_as_good_as_one_by_one() -> None:
    real = scene(victims=3, mode="eval")
    attack = InvertingGradients(iterations=100)
    together = attack(real.observations, EVAL, real.victim, generator=stream())
    alone = [attack([one], EVAL, real.victim, generator=stream())[0] for one in real.observations]
    for a, b in zip(together, alone, strict=True):
        assert a.images is not None and b.images is not None
        torch.testing.assert_close(a.images, b.images, atol=0.02, rtol=0)


def test_victims_with_different_parameters_share_a_graph() -> None:
    one, two = scene(victims=1, mode="eval"), scene(victims=1, mode="eval", seed=1)
    observations = [*one.observations, *two.observations]
    answers = InvertingGradients(iterations=300)(observations, EVAL, one.victim, generator=stream())
    for real, answer in zip((one, two), answers, strict=True):
        assert real.median([answer]) >= 30.0


def test_more_restarts_never_raise_the_residual() -> None:
    real = scene(victims=4, mode="eval", batch=2)
    few, many = (
        InvertingGradients(iterations=60, restarts=n)(
            real.observations, EVAL, real.victim, generator=stream()
        )
        for n in (1, 3)
    )
    assert all(b.residual <= a.residual for a, b in zip(few, many, strict=True))
    assert any(b.residual < a.residual for a, b in zip(few, many, strict=True))


def test_batch_norm_runs_in_the_mode_that_is_asked_for() -> None:
    def normalised() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)
        )

    real = scene(normalised, victims=2, batch=4)
    arguments = (real.observations, ThreatModel(), real.victim)
    published = InvertingGradients(iterations=150)(*arguments, generator=stream())
    matching = InvertingGradients(iterations=150, mode="train")(*arguments, generator=stream())
    assert all(b.residual < a.residual for a, b in zip(published, matching, strict=True))
