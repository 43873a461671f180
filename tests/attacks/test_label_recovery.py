"""Labels: exact for one record, near-exact counts for batches of an untrained network, honest refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import convnet, mlp, scene, small_mlp, stream
from fedlab_attacks.label_recovery import LabelRecovery, allot
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedlab.audit.metrics import labels_recovered
from fedlab.audit.observation import random_twin
from fedlab.audit.threat import ThreatModel


def headless() -> nn.Module:
    """No bias in the last layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10, bias=False))


@pytest.mark.parametrize("network", [small_mlp, convnet, headless])
def test_one_record_is_exact(network: Callable[[], nn.Module]) -> None:
    real = scene(network, victims=20)
    answers = LabelRecovery()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert [a.labels.tolist() for a in answers if a.labels is not None] == [t.tolist() for t in real.labels]


@pytest.mark.parametrize(
    ("network", "batch"),
    [
        *((network, batch) for network in (small_mlp, convnet) for batch in (2, 8, 32)),
        (headless, 2),
        (headless, 8),
    ],
)
def test_batches_of_an_untrained_network_are_counted(network: Callable[[], nn.Module], batch: int) -> None:
    real = scene(network, victims=10, batch=batch)
    answers = LabelRecovery()(real.observations, ThreatModel(), real.victim, generator=stream())
    right = 0
    for answer, truth in zip(answers, real.labels, strict=True):
        assert answer.labels is not None and len(answer.labels) == batch
        right += labels_recovered(answer.labels, truth)[0]
    assert right >= 0.95 * 10 * batch


def test_granted_labels_are_passed_through_in_the_clients_order() -> None:
    real = scene(batch=5, victims=2)
    answers = LabelRecovery()(real.granted(), ThreatModel(labels=True), real.victim, generator=stream())
    for answer, truth in zip(answers, real.labels, strict=True):
        assert answer.labels is not None and answer.labels.tolist() == truth.tolist()
        assert answer.details["labels"] == "granted"


def test_labels_in_an_observation_are_not_read_unless_granted() -> None:
    real = scene(victims=1)
    wrong = replace(real.observations[0], labels=(real.labels[0] + 1) % 10)
    (answer,) = LabelRecovery()([wrong], ThreatModel(), real.victim, generator=stream())
    assert answer.labels is not None and answer.labels.tolist() == real.labels[0].tolist()


def test_a_batch_needs_the_scale_of_the_gradient() -> None:
    real = scene(batch=4, victims=1)
    threat = ThreatModel(learning_rate=False)
    (answer,) = LabelRecovery()(real.observations, threat, real.victim, generator=stream())
    assert answer.refusal is not None and "learning_rate" in answer.refusal


def test_a_head_that_is_not_linear_is_refused() -> None:
    def no_head() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())

    real = scene(no_head, victims=1)
    (answer,) = LabelRecovery()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert answer.refusal is not None and "Conv2d" in answer.refusal


def test_allot_by_hand() -> None:
    """p = 1/4 each, B = 4: n_c = 4 (p_c - ∂b_c) = (2, 1, 0, 1)."""
    slope = torch.tensor([-0.25, 0.0, 0.25, 0.0]).double()
    assert allot(torch.full((4,), 0.25).double(), slope, 4).tolist() == [2, 1, 0, 1]


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 40),
    error=st.floats(0.0, 2.0),
    classes=st.integers(2, 12),
)
def test_allot_sums_to_the_batch_and_keeps_the_bound(
    seed: int, batch: int, error: float, classes: int
) -> None:
    """However wrong the guess of p is, every label of which p cannot explain the slope gets its share."""
    generator = stream(seed)
    truth = torch.bincount(torch.randint(classes, (batch,), generator=generator), minlength=classes)
    predicted = torch.rand(classes, generator=generator).double().softmax(0)
    slope = predicted - truth / batch
    guess = (predicted.log() + error * torch.randn(classes, generator=generator)).softmax(0)
    counts = allot(guess, slope, batch)
    assert int(counts.sum()) == batch
    assert bool((counts >= -batch * slope - 1e-2).all())
    if error == 0.0:
        assert counts.tolist() == truth.tolist()


def test_the_quickstart_network_is_exact_too() -> None:
    real = scene(mlp, victims=10)
    answers = LabelRecovery()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert all(a.labels is not None and a.labels.equal(t) for a, t in zip(answers, real.labels, strict=True))


def test_labels_that_contradict_the_update_are_named() -> None:
    """Another number than the batch has; for one record, another label than the head's bias tells."""
    threat = ThreatModel(labels=True)
    several = scene(batch=5, victims=1)
    short = replace(several.observations[0], labels=several.labels[0][:3])
    (answer,) = LabelRecovery()([short], threat, several.victim, generator=stream())
    assert answer.refusal is not None
    assert "Contradiction: 3 labels are granted for a batch of 5" in answer.refusal
    one = scene(victims=1)
    wrong = replace(one.observations[0], labels=(one.labels[0] + 1) % 10)
    (answer,) = LabelRecovery()([wrong], threat, one.victim, generator=stream())
    assert answer.refusal is not None and answer.refusal.startswith("Contradiction: the label")


def test_a_noisy_update_contradicts_no_label() -> None:
    """What noise does to the signs of a bias is no proof of another label: the grant stands."""
    real = scene(victims=8)
    twins = [
        replace(random_twin(observation, stream(i)), labels=labels)
        for i, (observation, labels) in enumerate(zip(real.observations, real.labels, strict=True))
    ]
    answers = LabelRecovery()(twins, ThreatModel(labels=True), real.victim, generator=stream())
    assert all(a.labels is not None and a.labels.equal(t) for a, t in zip(answers, real.labels, strict=True))
