"""Masks, running statistics and several steps in one attack: what it uses, and what it does without."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fedlab_attacks.optimise.capture import Simulated
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.recipes.local_steps import plan_of
from fedlab_attacks.recipes.training_client import TrainingClient, buffers_apart
from torch import nn

from benchmarks.attacks.scene import observe
from fedlab.audit.observation import random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.clients import ClientConfig
from fedlab.errors import MissingKnowledge, UsageError
from fedlab.tasks import Dataset
from tests.attacks.attack_scene import IMAGES, LABELS, Scene, mlp, stream

STEPS = ClientConfig(batch_size=3, local_epochs=1, learning_rate=0.01, momentum=0.9)


def normed(p: float = 0.5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Linear(96, 24),
        nn.LeakyReLU(),
        nn.Dropout(p),
        nn.Linear(24, 10),
    )


def trained(
    network: Callable[[], nn.Module] = normed, config: ClientConfig = STEPS, records: int = 6
) -> Scene:
    data = Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, source="scikit-learn")
    seen = observe(network, data, config, victims=1, records=records, seed=0)
    return Scene(seen.victim, seen.observations, seen.images, seen.labels)


def quick(restarts: int = 1) -> TrainingClient:
    return TrainingClient(iterations=8, restarts=restarts)


ONE_STEP = ClientConfig(batch_size=2, local_steps=1)


@pytest.mark.parametrize(
    ("network", "config", "threat", "used"),
    [
        (normed, STEPS, ThreatModel(), "used masks, buffers, 2 steps"),
        (normed, STEPS, ThreatModel(batch_norm_buffers=False), "used masks, 2 steps"),
        (normed, STEPS, ThreatModel(momentum=False), "used masks, buffers, read as one step"),
        (normed, STEPS, ThreatModel(client_mode="eval"), "used 2 steps"),
        (normed, STEPS, ThreatModel(dropout_rate=False), "used no masks (rate denied), buffers, 2 steps"),
        (functools.partial(normed, 0.0), STEPS, ThreatModel(), "used buffers, 2 steps"),
        (functools.partial(mlp, 0.5, 24), ONE_STEP, ThreatModel(), "used masks, 1 step"),
        (functools.partial(mlp, 0.0, 24), ONE_STEP, ThreatModel(), "used 1 step"),
    ],
)
def test_says_what_it_used(
    network: Callable[[], nn.Module], config: ClientConfig, threat: ThreatModel, used: str
) -> None:
    seen = trained(network, config, records=6 if config is STEPS else 2)
    threat = replace(threat, labels=True)
    found = quick()(seen.granted(), threat, seen.victim, generator=stream())[0]
    assert found.refusal is None
    assert found.details["found by"] == used
    assert found.images is not None and found.images.shape == seen.images[0].shape
    assert found.labels is not None and sorted(found.labels.tolist()) == sorted(seen.labels[0].tolist())


def test_granted_masks_are_used_as_they_are() -> None:
    seen = trained()
    drawn = tuple(seen.victim.model.draw_masks(3, stream(step)) for step in range(2))
    observation = replace(seen.granted()[0], masks=drawn)
    threat = ThreatModel(labels=True, dropout_masks=True)
    found = quick()([observation], threat, seen.victim, generator=stream())[0]
    assert found.details["found by"] == "used granted masks, buffers, 2 steps"


def test_several_epochs_are_merged() -> None:
    seen = trained(config=replace(STEPS, local_epochs=2))
    threat = ThreatModel(labels=True)
    found = quick(restarts=2)(seen.granted(), threat, seen.victim, generator=stream())[0]
    assert found.details["found by"] == "used masks, buffers, 4 steps"
    assert found.images is not None and found.images.shape == (6, 1, 8, 8)


def test_the_truth_explains_update_and_buffers_and_other_images_do_not() -> None:
    """A full batch has no order: with the true images the simulated buffers are the observed ones."""
    config = ClientConfig(batch_size=0, local_steps=3, learning_rate=0.05, momentum=0.9)
    seen = trained(functools.partial(normed, 0.0), config, records=6)
    plan = plan_of(seen.observations[0], 6)
    labels = torch.stack(seen.labels).repeat(1, 3)
    problem = Problem.of(seen.victim, seen.observations, labels, training=True, client=plan)
    truth = torch.stack(seen.images).repeat(1, 3, 1, 1, 1)
    assert float(distance(problem, truth)) < 1e-6
    assert float(distance(problem, truth.flip(-1))) > 1e-3
    assert float(distance(problem, torch.zeros_like(truth))) > 0.1


def distance(problem: Problem, images: torch.Tensor) -> torch.Tensor:
    variables = Variables(images)
    found: Simulated = simulate(problem, variables)
    return buffers_apart(problem, variables, found)[0]


def test_finds_more_than_in_a_random_update() -> None:
    """One record, two steps, masks unknown: easy enough for a few iterations."""
    config = ClientConfig(batch_size=0, local_steps=2, learning_rate=0.05, momentum=0.9)
    seen = trained(functools.partial(mlp, 0.5, 64), config, records=1)
    attack, threat = TrainingClient(iterations=80, restarts=1), ThreatModel()
    found = attack(seen.observations, threat, seen.victim, generator=stream())
    twins = [random_twin(one, stream(3)) for one in seen.observations]
    chance = attack(twins, threat, seen.victim, generator=stream())
    assert seen.median(found) > seen.median(chance) + 3.0
    assert found[0].residual < chance[0].residual


def test_needs_the_batch_size() -> None:
    seen = trained()
    with pytest.raises(MissingKnowledge, match="batch_size"):
        quick()(seen.observations, ThreatModel(batch_size=False), seen.victim, generator=stream())


@pytest.mark.parametrize("wrong", [{"buffers": -1.0}, {"mask_rate": -1.0}, {"step": 0.0}, {"restarts": 0}])
def test_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TrainingClient(**wrong)  # type: ignore[arg-type]
