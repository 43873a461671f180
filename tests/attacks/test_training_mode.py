"""Attacks that know statistics of norm layers: what they need, whom they refuse, and that it helps them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, Scene, mlp, scene, stream
from fedlab_attacks.recipes.batch_statistics import BatchStatistics
from fedlab_attacks.recipes.grad_inversion import GradInversion, warm_cosine
from fedlab_attacks.recipes.training_mode import GIAEstimate, GIARunning
from torch import nn

from fedlab.audit.attack import Attack
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Proxy
from fedlab.errors import MissingKnowledge, UsageError

KNOWS = ThreatModel(labels=True, proxy_data=True)
ATTACKS: dict[str, Callable[..., Attack]] = {
    "gia-running": GIARunning,
    "gia-estimate": GIAEstimate,
    "batch-statistics": functools.partial(BatchStatistics, statistics="exact"),
    "grad-inversion": functools.partial(GradInversion, restarts=2),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


def normed() -> nn.Module:
    """Convolution, batch norm, a smooth activation, a bias-free second convolution, head."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Sigmoid(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def layer_normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.GroupNorm(1, 8),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def clients(network: Callable[[], nn.Module] = normed, *, victims: int = 2, batch: int = 2) -> Scene:
    """Training clients that send their buffers, with their labels; the attacker holds other digits."""
    found = scene(network, victims=victims, batch=batch)
    model, seen = found.victim.model, []
    for observation, images in zip(found.granted(), found.images, strict=True):
        masks = model.draw_masks(batch, stream()) or None
        state = {**observation.before, **observation.buffers_before}
        _, after = model(state, images, training=True, masks=masks)
        seen.append(replace(observation, buffers_after=after))
    victim = replace(found.victim, proxy=Proxy(IMAGES[-32:], LABELS[-32:]))
    return replace(found, victim=victim, observations=seen)


def two_steps(observation: Observation) -> Observation:
    return replace(observation, config=replace(observation.config, local_steps=2))


@every_attack
def test_it_recovers_a_small_batch_and_not_a_random_update(name: str) -> None:
    digits = clients(victims=1)
    (seen,) = digits.observations
    twin = replace(random_twin(seen, stream()), client=1)
    attack = ATTACKS[name](iterations=200)
    found, nothing = attack([seen, twin], KNOWS, digits.victim, generator=stream())
    assert digits.median([found]) > 15.0  # the mean image of the digits scores 11.5 dB
    assert digits.median([nothing]) < 12.0


@every_attack
def test_a_victim_is_attacked_alone_as_in_company(name: str) -> None:
    digits = clients()
    attack = ATTACKS[name](iterations=20)
    together = attack(digits.observations, KNOWS, digits.victim, generator=stream())
    alone = attack(digits.observations[1:], KNOWS, digits.victim, generator=stream())
    torch.testing.assert_close(together[1].images, alone[0].images, rtol=0, atol=1e-3)


def test_exact_statistics_lead_nearer_to_those_of_the_batch() -> None:
    """At a large weight, the images that are found have the client's statistics, not others'."""
    digits = clients(victims=1, batch=4)

    def distance(**weights: float) -> float:
        attack = GIARunning(iterations=60, **weights)
        (answer,) = attack(digits.observations, KNOWS, digits.victim, generator=stream())
        assert answer.images is not None
        state = digits.victim.model.state()
        _, after = digits.victim.model(state, answer.images, training=True)
        sent = digits.observations[0].buffers_after
        return sum(float((after[name] - value).norm()) for name, value in sent.items())

    assert distance(batch_norm=0.1) < 0.5 * distance(batch_norm=0.0)


def test_only_knowledge_that_is_granted_is_used() -> None:
    digits = clients()

    def ask(attack: Attack, threat: ThreatModel) -> None:
        attack(digits.observations, threat, digits.victim, generator=stream())

    with pytest.raises(MissingKnowledge, match="batch_norm_buffers"):
        ask(GIARunning(), replace(KNOWS, batch_norm_buffers=False))
    with pytest.raises(MissingKnowledge, match="local_steps"):
        ask(GIARunning(), replace(KNOWS, local_steps=False))
    with pytest.raises(MissingKnowledge, match="proxy_data"):
        ask(GIAEstimate(), replace(KNOWS, proxy_data=False))
    with pytest.raises(MissingKnowledge, match="learning_rate"):
        ask(GradInversion(), replace(KNOWS, learning_rate=False))


def refusal(attack: Attack, digits: Scene, observation: Observation, threat: ThreatModel = KNOWS) -> str:
    (answer,) = attack([observation], threat, digits.victim, generator=stream())
    assert answer.images is None and answer.refusal is not None
    return answer.refusal


def test_buffers_that_cannot_be_solved_are_a_refusal_and_the_others_are_answered() -> None:
    digits = clients()
    first, second = digits.observations
    kept = replace(second, buffers_after={})
    answers = GIARunning(iterations=5)([first, kept], KNOWS, digits.victim, generator=stream())
    assert answers[0].images is not None
    assert answers[1].refusal is not None and answers[1].refusal.startswith("MissingBuffers")
    assert "2 local steps" in refusal(GIARunning(), digits, two_steps(first))
    assert "evaluation mode" in refusal(GIARunning(), digits, first, replace(KNOWS, client_mode="eval"))
    exact = BatchStatistics(statistics="exact")
    assert refusal(exact, digits, first, replace(KNOWS, batch_norm_buffers=False)).startswith(
        "MissingBuffers"
    )


def test_networks_without_the_right_norm_are_refused() -> None:
    plain = clients(mlp, victims=1)
    assert refusal(GIARunning(), plain, plain.observations[0]).startswith("MissingBuffers")
    assert refusal(BatchStatistics(), plain, plain.observations[0]).startswith("MissingBuffers")
    assert "no normalisation layer" in refusal(GIAEstimate(), plain, plain.observations[0])


def test_layer_norm_has_statistics_to_estimate_but_none_to_solve_for() -> None:
    digits = clients(layer_normed, victims=1)
    assert refusal(GIARunning(), digits, digits.observations[0]).startswith("MissingBuffers")
    answers = GIAEstimate(iterations=100)(digits.observations, KNOWS, digits.victim, generator=stream())
    assert digits.median(answers) > 15.0


def test_grad_inversion_does_without_batch_norm() -> None:
    digits = clients(lambda: mlp(p=0.0, width=48), victims=1)
    answers = GradInversion(iterations=50)(digits.observations, KNOWS, digits.victim, generator=stream())
    assert answers[0].images is not None and answers[0].residual < 1.0


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [warm_cosine(i, 1000) for i in range(1000)]
    assert factors[0] == pytest.approx(1 / 50) and max(factors) == factors[49]
    assert factors[500] == pytest.approx(0.5) and factors[-1] < 1e-5
    assert warm_cosine(0, 10) == pytest.approx(0.5) and warm_cosine(0, 1) == 1.0


@pytest.mark.parametrize(
    "make",
    [
        *(lambda make=make: make(iterations=0) for make in ATTACKS.values()),
        *(lambda make=make: make(step=0.0) for make in ATTACKS.values()),
        *(lambda make=make: make(batch_norm=-1.0) for make in ATTACKS.values()),
        *(lambda make=make: make(total_variation=float("nan")) for make in ATTACKS.values()),
        lambda: GradInversion(restarts=1),
        lambda: GradInversion(consistency=-1.0),
        lambda: BatchStatistics(statistics="guessed"),  # type: ignore[arg-type]
    ],
)
def test_parameters_out_of_range_name_themselves(make: Callable[[], Attack]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()
