"""Labels: exact for one record, near-exact counts for batches of an untrained network, honest refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, Scene, convnet, mlp, scene, small_mlp, stream
from fedlab_attacks.exact.algebra import trained
from fedlab_attacks.label_recovery import LabelRecovery, allot
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedlab.audit.metrics import labels_recovered
from fedlab.audit.observation import KnownConfig, Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.tasks import FunctionalModel, cross_entropy, initialise


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


def decayed(network: Callable[[], nn.Module], batch: int, momentum: float, taken: int) -> Scene:
    """Clients whose head is as large as a trained one's; they decay weights by 0.1, over `taken` steps."""
    model = FunctionalModel(initialise(network, 0), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    before = dict(model.state())
    heads = list(before)[-2:] if network is small_mlp else list(before)[-1:]
    generator = stream(5)
    for name in heads:
        size = 2.0 if name.endswith("bias") else 0.3
        before[name] = size * torch.randn(before[name].shape, generator=generator)
    config = KnownConfig("eval", batch, taken, learning_rate=0.01, momentum=momentum, weight_decay=0.1)
    real = Scene(victim, [], [], [])
    for client in range(10):
        ids = torch.randperm(len(IMAGES), generator=generator)[: batch * taken].view(taken, batch)
        state, velocity = before, {name: torch.zeros_like(value) for name, value in before.items()}
        for one in ids:
            slope = victim.gradient(state, {}, IMAGES[one], LABELS[one], training=False)
            velocity = {n: momentum * v + slope[n] + 0.1 * state[n] for n, v in velocity.items()}
            state = {n: v - 0.01 * velocity[n] for n, v in state.items()}
        update = {n: state[n] - value for n, value in before.items()}
        real.observations.append(
            Observation(1, client, before, update, {}, {}, config, examples=batch * taken)
        )
        real.images.append(IMAGES[ids.flatten()])
        real.labels.append(LABELS[ids.flatten()])
    return real


@pytest.mark.parametrize(
    ("network", "batch", "momentum", "taken", "right", "misled"),
    [
        (small_mlp, 1, 0.0, 1, 10, 9),
        (headless, 1, 0.0, 1, 10, 10),
        (small_mlp, 8, 0.0, 1, 80, 40),
        (headless, 8, 0.0, 1, 78, 72),
        (small_mlp, 4, 0.9, 4, 136, 60),  # momentum weighs the steps, and one step is all that is read
        (small_mlp, 4, 0.0, 4, 160, 80),
    ],
)
def test_known_weight_decay_and_momentum_are_taken_out(
    network: Callable[[], nn.Module], batch: int, momentum: float, taken: int, right: int, misled: int
) -> None:
    """Decay moves a bias of 2 about as much as the gradient does: raw, or not told, labels are wrong."""
    real = decayed(network, batch, momentum, taken)
    for threat, least, most in (
        (ThreatModel(), right, 10 * batch * taken),
        (ThreatModel(momentum=False), 0, misled),
    ):
        answers = LabelRecovery()(real.observations, threat, real.victim, generator=stream())
        found = 0
        for answer, truth in zip(answers, real.labels, strict=True):
            assert answer.labels is not None
            found += labels_recovered(answer.labels, truth)[0]
        assert least <= found <= most


def test_the_scale_of_several_steps_by_hand() -> None:
    """Momentum 0.5, rate 0.1, 3 steps of slope 1: 0.1 (1 + 1.5 + 1.75); decay 0.1 of 1 in a step: 0.99."""
    config = KnownConfig(local_steps=3, learning_rate=0.1, momentum=0.5)
    observation = Observation(1, 0, {}, {}, {}, {}, config)
    assert trained(observation, 0.0, 1.0) == pytest.approx(-0.425)
    one = replace(config, local_steps=1, weight_decay=0.1)
    assert trained(replace(observation, config=one), 1.0, 0.0) == pytest.approx(0.99)


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
