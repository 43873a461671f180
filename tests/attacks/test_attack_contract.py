"""What every built-in attack owes: refusals instead of crashes, determinism, chance level on noise."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import fedlab_attacks
import pytest
import torch
from attack_scene import Scene, convnet, scene, small_mlp, stream
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.label_recovery import LabelRecovery
from fedlab_attacks.random_gradient import RandomGradient
from fedlab_attacks.recipes.deep_leakage import DeepLeakage, ImprovedDeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from torch import nn

from fedlab.audit.attack import Attack
from fedlab.audit.observation import random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.errors import MissingKnowledge, UnknownName, UsageError
from fedlab.tasks import State

ATTACKS: dict[str, Callable[[], Attack]] = {
    "inverting-gradients": lambda: InvertingGradients(iterations=60),
    "dropout-inversion": lambda: DropoutInversion(iterations=60),
    "deep-leakage": lambda: DeepLeakage(iterations=60),
    "improved-deep-leakage": lambda: ImprovedDeepLeakage(iterations=60),
    "linear-layer": LinearLayer,
    "label-recovery": LabelRecovery,
    "random-gradient": lambda: RandomGradient(attack="inverting-gradients", iterations=60),
}
IMAGE_ATTACKS = [name for name in ATTACKS if name != "label-recovery"]
every_attack = pytest.mark.parametrize("name", ATTACKS)


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


@pytest.fixture(scope="module")
def digits() -> Scene:
    return scene(victims=2)


@every_attack
def test_an_attack_answers_every_observation_in_its_own_terms(name: str, digits: Scene) -> None:
    answers = ATTACKS[name]()(digits.observations, ThreatModel(), digits.victim, generator=stream())
    assert len(answers) == 2
    for answer in answers:
        assert answer.refusal is None
        if name in IMAGE_ATTACKS:
            assert answer.images is not None and answer.images.shape == (1, 1, 8, 8)
            assert answer.images.dtype == torch.float32 and not answer.images.requires_grad
            assert 0.0 <= answer.residual < 2.0
        else:
            assert answer.images is None and answer.labels is not None


@every_attack
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (nan, "not finite"),
        (infinite, "not finite"),
        (zero, "zero"),
        (lacking, "lacks the parameter"),
        (misshapen, "with shape"),
    ],
)
def test_a_degenerate_update_is_refused_with_its_reason(
    name: str, damage: Callable[[State], State], reason: str, digits: Scene
) -> None:
    bad, good = digits.with_update(damage), digits.observations[1]
    answers = ATTACKS[name]()([bad, good], ThreatModel(), digits.victim, generator=stream())
    assert answers[0].refusal is not None and reason in answers[0].refusal
    assert answers[0].images is None and answers[1].refusal is None


@every_attack
def test_the_same_generator_seed_gives_the_same_answer(name: str, digits: Scene) -> None:
    runs = [
        ATTACKS[name]()(digits.observations, ThreatModel(), digits.victim, generator=stream(5))
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert a.residual == b.residual or a.residual != a.residual
        for one, other in ((a.images, b.images), (a.labels, b.labels)):
            assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "network"),
    [
        *((name, small_mlp) for name in IMAGE_ATTACKS),
        *((name, convnet) for name in IMAGE_ATTACKS if name != "linear-layer"),  # refused: no linear layer
    ],
)
def test_an_attack_on_a_random_update_scores_at_chance(name: str, network: Callable[[], nn.Module]) -> None:
    real = scene(network, victims=6)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(real.observations)]
    answers = ATTACKS[name]()(twins, ThreatModel(), real.victim, generator=stream())
    assert real.median(answers) < 12.0  # the mean image of the digits scores 11.5 dB


@every_attack
def test_no_observations_no_answers(name: str, digits: Scene) -> None:
    assert ATTACKS[name]()([], ThreatModel(), digits.victim, generator=stream()) == []


@pytest.mark.parametrize("name", ["inverting-gradients", "dropout-inversion", "label-recovery"])
def test_a_denied_batch_size_is_missing_knowledge(name: str, digits: Scene) -> None:
    with pytest.raises(MissingKnowledge, match="batch_size"):
        ATTACKS[name]()(digits.observations, ThreatModel(batch_size=False), digits.victim, generator=stream())


def test_denied_dropout_rates_stop_the_attack_that_uses_them(digits: Scene) -> None:
    with pytest.raises(MissingKnowledge, match="dropout_rate"):
        DropoutInversion()(
            digits.observations, ThreatModel(dropout_rate=False), digits.victim, generator=stream()
        )


def test_progress_ends_at_its_total(digits: Scene) -> None:
    for make in ATTACKS.values():
        seen: list[tuple[int, int]] = []
        make()(
            digits.observations,
            ThreatModel(),
            digits.victim,
            generator=stream(),
            report=lambda done, total, seen=seen: seen.append((done, total)),
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


def test_no_attack_module_can_reach_the_truth() -> None:
    allowed = {
        "fedlab.audit.attack",
        "fedlab.audit.certificate",
        "fedlab.audit.membership",
        "fedlab.audit.observation",
        "fedlab.audit.threat",
        "fedlab.audit.victim",
        "fedlab.tasks",
        "fedlab.tasks.hypernetwork",
        "fedlab.tasks.layers",
        "fedlab.errors",
    }
    files = sorted(Path(fedlab_attacks.__file__).parent.rglob("*.py"))
    assert len(files) >= 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("fedlab.") or name in allowed, f"{file.name} imports {name}"
                assert name != "fedlab", f"{file.name} imports the whole of fedlab"


def test_no_argument_of_an_attack_carries_the_truth() -> None:
    expected = ["self", "observations", "threat", "victim", "generator", "report"]
    for cls in (Attack, InvertingGradients, DropoutInversion, LinearLayer, LabelRecovery, RandomGradient):
        for method in (cls.run, cls.__call__):
            assert list(inspect.signature(method).parameters) == expected
