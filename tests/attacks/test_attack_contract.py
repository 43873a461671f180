"""What every built-in attack owes: refusals instead of crashes, determinism, chance level on noise.

Attacks of membership have a contract and tests of their own (`test_membership`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import torch
from attack_cases import CASES, alike, answered, asked, clients, generated, same
from attack_scene import convnet, scene, stream
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.exact.pullback import HypernetworkPullback
from fedlab_attacks.random_gradient import INNER, RandomGradient
from fedlab_attacks.recipes.deep_leakage import DeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from test_pullback import pooled as generated_pooled

from fedlab.audit.attack import Attack
from fedlab.audit.membership import MembershipAttack
from fedlab.audit.observation import random_twin
from fedlab.audit.threat import KNOWLEDGE, ThreatModel
from fedlab.errors import MissingKnowledge, UnknownName, UsageError
from fedlab.tasks import State

every_attack = pytest.mark.parametrize("name", CASES)


def test_every_built_in_attack_takes_part() -> None:
    built_in = {
        entry.name: entry.load()
        for entry in entry_points(group="fedlab.attacks")
        if entry.value.startswith("fedlab_attacks.")
    }
    ours = {name for name, found in built_in.items() if not issubclass(found, MembershipAttack)}
    assert ours == set(CASES)
    assert all(type(case.make()) is built_in[name] for name, case in CASES.items())
    curious = {name for name in ours if built_in[name].server == "curious"}
    assert set(INNER) == curious - {"random-gradient"}
    assert all(found is built_in[name] for name, found in INNER.items())


@every_attack
def test_an_attack_answers_every_observation_in_its_own_terms(name: str) -> None:
    real, answers = clients(name), answered(name)
    assert len(answers) == 2
    for answer, observation in zip(answers, real.observations, strict=True):
        assert answer.refusal is None
        if name == "label-recovery":
            assert answer.images is None and answer.labels is not None
        else:
            assert answer.images is not None
            assert answer.images.shape == (observation.examples, 1, 8, 8)
            assert answer.images.dtype == torch.float32 and not answer.images.requires_grad
            assert 0.0 <= answer.residual < 2.0
        exact = CASES[name].make().exact
        assert not exact or answer.certificates


def nan(update: State) -> State:
    return {
        n: torch.where(torch.arange(v.numel()).view(v.shape) == 3, torch.nan, v) for n, v in update.items()
    }


def infinite(update: State) -> State:
    return {name: value * torch.inf for name, value in update.items()}


def zero(update: State) -> State:
    return {name: torch.zeros_like(value) for name, value in update.items()}


def lacking(update: State) -> State:
    return dict(list(update.items())[1:])


def misshapen(update: State) -> State:
    return {name: value.flatten()[1:] for name, value in update.items()}


def foreign(update: State) -> State:
    return {**update, "elsewhere.weight": torch.ones(3)}


REASONS: dict[Callable[[State], State], str] = {
    nan: "UnusableUpdate: the update is not finite",
    infinite: "UnusableUpdate: the update is not finite",
    zero: "UnusableUpdate: the update is zero",
    lacking: "ForeignObservation: the observation lacks the parameter",
    misshapen: "with shape",
    foreign: "ForeignObservation: the update has 'elsewhere.weight'",
}


@every_attack
def test_unusable_updates_are_refused_by_named_errors_and_the_rest_is_answered(name: str) -> None:
    real = clients(name)
    labels = replace(real.observations[0], labels=torch.tensor([10]))
    bad = [real.with_update(damage) for damage in REASONS]
    *refused, good = asked(name, [*bad, labels, real.observations[1]])
    for answer, reason in zip(refused, [*REASONS.values(), "Contradiction: labels"], strict=True):
        assert answer.refusal is not None and reason in answer.refusal
        assert answer.images is None and answer.labels is None
    assert good.refusal is None


@every_attack
def test_the_same_generator_seed_gives_the_same_answer_and_nothing_else_is_touched(name: str) -> None:
    real = clients(name)
    kept = [{n: v.clone() for n, v in one.update.items()} for one in real.observations]
    ambient, modes = torch.get_rng_state(), [one.training for one in real.victim.model.net.modules()]
    for a, b in zip(answered(name), asked(name, real.observations), strict=True):
        # up to rounding: LAPACK's last bit depends on where in memory a matrix lies
        assert math.isclose(a.residual, b.residual, rel_tol=1e-6) or math.isnan(a.residual)
        assert same(a.images, b.images, atol=1e-6) and same(a.labels, b.labels)
    assert torch.equal(torch.get_rng_state(), ambient)
    assert [one.training for one in real.victim.model.net.modules()] == modes
    for observation, before in zip(real.observations, kept, strict=True):
        assert all(torch.equal(observation.update[n], value) for n, value in before.items())


@every_attack
def test_a_client_is_attacked_alone_as_in_company(name: str) -> None:
    (alone,) = asked(name, clients(name).observations[1:])
    together = answered(name)[1]
    assert alike(alone.images, together.images) and same(alone.labels, together.labels)


def test_where_the_pull_back_has_to_match_it_starts_alone_as_in_company() -> None:
    real, attack = generated(2, generated_pooled), HypernetworkPullback(iterations=10)
    together = attack(real.observations, ThreatModel(), real.victim, generator=stream())[1]
    (alone,) = attack(real.observations[1:], ThreatModel(), real.victim, generator=stream())
    assert together.images is not None and alike(alone.images, together.images)


@every_attack
def test_an_attack_on_random_updates_scores_at_chance_and_proves_nothing(name: str) -> None:
    real = clients(name, 6)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(real.observations)]
    answers = CASES[name].make()(twins, CASES[name].threat, real.victim, generator=stream())
    assert not any(one.proves for answer in answers for one in answer.certificates)
    guesses = [i for i, answer in enumerate(answers) if answer.images is not None]
    if guesses:
        some = replace(real, images=[real.images[i] for i in guesses])
        assert some.median([answers[i] for i in guesses]) < 12.0  # the mean digit scores 11.5 dB
    else:
        assert all(answer.refusal or answer.labels is not None for answer in answers)


@pytest.mark.parametrize(
    "name",
    ["inverting-gradients", "dropout-inversion", "deep-leakage", "improved-deep-leakage", "local-steps"],
)
def test_convolutions_on_random_updates_score_at_chance_too(name: str) -> None:
    real = scene(convnet, victims=6)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(real.observations)]
    answers = CASES[name].make()(twins, ThreatModel(), real.victim, generator=stream())
    assert real.median(answers) < 12.0


@every_attack
def test_no_observations_no_answers(name: str) -> None:
    assert asked(name, []) == []


@every_attack
def test_knowledge_that_an_attack_needs_stops_it_where_it_is_denied(name: str) -> None:
    case = CASES[name]
    attack = case.make()
    inner = attack.inner if isinstance(attack, RandomGradient) else attack
    assert inner.needs <= set(KNOWLEDGE)
    for item in inner.needs:
        denied = replace(case.threat, **{item: False})
        with pytest.raises(MissingKnowledge, match=f"{item}, which the threat model denies|{item},"):
            asked(name, clients(name).observations, denied)
    if attack.server == "malicious":
        with pytest.raises(MissingKnowledge, match="altered models"):
            asked(name, clients(name).observations, replace(case.threat, server="curious"))


@every_attack
def test_without_all_that_it_does_not_need_it_answers_or_says_why_not(name: str) -> None:
    case = CASES[name]
    attack = case.make()
    needs = (attack.inner if isinstance(attack, RandomGradient) else attack).needs
    denied = {item: False for item in KNOWLEDGE if item not in needs and item != "client_mode"}
    threat = replace(case.threat, client_mode=None, **denied)
    for answer in asked(name, clients(name).observations, threat):
        assert answer.images is not None or answer.labels is not None or answer.refusal


@every_attack
def test_progress_ends_at_its_total(name: str) -> None:
    real, seen = clients(name), list[tuple[int, int]]()
    case = CASES[name]
    case.make()(
        real.observations,
        case.threat,
        real.victim,
        generator=stream(),
        report=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InvertingGradients(iterations=0),
        lambda: InvertingGradients(restarts=-1),
        lambda: InvertingGradients(total_variation=-1.0),
        lambda: InvertingGradients(total_variation=[]),
        lambda: InvertingGradients(step=float("nan")),
        lambda: InvertingGradients(device="nowhere"),
        lambda: DeepLeakage(memory=0),
        lambda: InvertingGradients(mode="both"),  # type: ignore[arg-type]
        lambda: DropoutInversion(mask_rate=-1.0),
        lambda: DropoutInversion(iterations=0),
    ],
)
def test_parameters_out_of_range_are_usage_errors(make: Callable[[], Attack]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


def test_random_gradient_knows_the_built_in_attacks() -> None:
    assert isinstance(RandomGradient(attack=LinearLayer()).inner, LinearLayer)
    with pytest.raises(UnknownName, match="linear-layer"):
        RandomGradient(attack="linear-layr")
