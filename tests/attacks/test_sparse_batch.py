"""SPEAR finds whole batches, certifies what it can prove, and says why not where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, convnet, scene, stream
from fedlab_attacks.exact.first_layer import first_layer, rectified
from fedlab_attacks.exact.sparse_batch import SparseBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedlab.audit.attack import Reconstruction
from fedlab.audit.certificate import Certificate
from fedlab.audit.metrics import match, psnr
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.clients.config import ClientConfig, Mode
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State, cross_entropy
from fedlab.tasks.functional import initialise


def network(
    p: float = 0.0, bias: bool = True, activation: Callable[[], nn.Module] = nn.ReLU, width: int = 200
) -> nn.Module:
    """64 -> width -> 10 with one activation, and dropout behind it."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width, bias=bias), activation(), nn.Dropout(p), nn.Linear(width, 10)
    )


def verdict(answer: Reconstruction) -> Certificate:
    (certificate,) = answer.certificates
    return certificate


@pytest.mark.parametrize(
    ("batch", "mode"), [(1, "eval"), (2, "eval"), (4, "eval"), (6, "eval"), (8, "train")]
)
def test_every_image_of_a_batch_comes_back(batch: int, mode: Mode) -> None:
    """In training mode half the units are dropped, which adds zeros: easier, not harder."""
    real = scene(lambda: network(0.5 if mode == "train" else 0.0), victims=3, batch=batch, mode=mode)
    answers = SparseBatch()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert float(real.psnr(answers).min()) >= 90.0
    for answer in answers:
        certificate = verdict(answer)
        assert certificate.proves and certificate.rank == certificate.unknowns == batch
        assert certificate.null_space == 0 and certificate.residual < 1e-5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), batch=st.integers(2, 4))
def test_certified_batches_are_right(seed: int, batch: int) -> None:
    """Random images of one class or several: where it says unique, it is."""
    generator = stream(seed)
    model = FunctionalModel(initialise(network, seed % 2**31), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    images = torch.rand(batch, 1, 8, 8, generator=generator)
    labels = torch.randint(3, (batch,), generator=generator)
    state = model.state()
    slope = victim.gradient(state, {}, images, labels, training=False)
    update = {name: (state[name] - 0.1 * slope[name]) - state[name] for name in state}
    config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
    observation = Observation(1, 0, state, update, {}, {}, config)
    (answer,) = SparseBatch(samples=20_000)([observation], ThreatModel(), victim, generator=generator)
    if any(one.proves for one in answer.certificates):
        assert answer.images is not None
        order = [j for j in match(answer.images, images) if j is not None]
        assert float(psnr(answer.images[order], images).min()) >= 60.0


def test_an_unknown_number_of_records_is_the_rank() -> None:
    real = scene(network, victims=2, batch=3, mode="eval")
    hidden = [replace(observation, examples=None) for observation in real.observations]
    answers = SparseBatch()(hidden, ThreatModel(batch_size=False), real.victim, generator=stream())
    assert all(answer.details["rank"] == 3 and not verdict(answer).proves for answer in answers)
    assert all("number of records is unknown" in verdict(answer).reason for answer in answers)
    assert float(real.psnr(answers).min()) >= 90.0


def test_without_a_bias_the_sizes_are_open() -> None:
    """Directions are exact: the answer is each image with its brightest pixel at 1."""
    real = scene(lambda: network(bias=False), victims=2, batch=4, mode="eval")
    answers = SparseBatch()(real.observations, ThreatModel(), real.victim, generator=stream())
    for answer, truth in zip(answers, real.images, strict=True):
        certificate = verdict(answer)
        assert certificate.verdict == "not unique" and certificate.null_space == 4
        assert "size" in certificate.reason and answer.images is not None
        order = [j for j in match(answer.images, truth) if j is not None]
        bright = truth / truth.amax(dim=(1, 2, 3), keepdim=True)
        torch.testing.assert_close(answer.images[order], bright, atol=1e-4, rtol=0)


def test_several_steps_on_several_records_are_one_product() -> None:
    """Two steps on two records each: the sum of both updates is still δ times four records."""
    real = scene(network, victims=1, batch=4, mode="eval")
    state, update = real.victim.model.state(), {}
    images, labels = real.images[0], real.labels[0]
    now = dict(state)
    for part in (slice(0, 2), slice(2, 4)):
        slope = real.victim.gradient(now, {}, images[part], labels[part], training=False)
        now = {name: now[name] - 0.1 * slope[name] for name in now}
    update = {name: now[name] - state[name] for name in state}
    config = ClientConfig(batch_size=2, local_steps=2, learning_rate=0.1)
    taken = replace(real.observations[0], update=update, config=config, examples=4)
    (answer,) = SparseBatch(samples=4096)([taken], ThreatModel(), real.victim, generator=stream())
    assert float(real.psnr([answer]).min()) >= 90.0


def test_equal_records_have_no_trace_of_their_own() -> None:
    """Two equal images among three: rank two, and nothing says that the third is a copy."""
    model = FunctionalModel(initialise(network, 0), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    ids = torch.tensor([3, 3, 40])
    slope = victim.gradient(model.state(), {}, IMAGES[ids], LABELS[ids], training=False)
    update = {name: -0.1 * value for name, value in slope.items()}
    config = ClientConfig(batch_size=3, local_steps=1, learning_rate=0.1)
    observation = Observation(1, 0, model.state(), update, {}, {}, config)
    (answer,) = SparseBatch()([observation], ThreatModel(), victim, generator=stream())
    certificate = verdict(answer)
    assert certificate.verdict == "not unique" and certificate.rank == 2 and "1 of 3" in certificate.reason


def doubled(update: State) -> State:
    return {name: 2.0 * value for name, value in update.items()}


def test_the_scale_of_the_update_does_not_matter() -> None:
    real = scene(network, victims=1, batch=3, mode="eval")
    secretive = ThreatModel(learning_rate=False, client_mode=None)
    seen = [real.observations[0], real.with_update(doubled)]
    one, other = SparseBatch()(seen, secretive, real.victim, generator=stream())
    assert float(real.psnr([one]).min()) >= 90.0 and float(real.psnr([other]).min()) >= 90.0


@pytest.mark.parametrize("share", [1e-3, 1e-1])
def test_noise_is_never_certified(share: float) -> None:
    real = scene(network, victims=2, batch=4, mode="eval")
    noisy = []
    for index, observation in enumerate(real.observations):
        twin = random_twin(observation, stream(index))
        update = {n: v + share * twin.update[n] for n, v in observation.update.items()}
        noisy.append(replace(observation, update=update))
    for threat in (ThreatModel(), ThreatModel(batch_size=False)):
        for answer in SparseBatch(samples=4096)(noisy, threat, real.victim, generator=stream()):
            assert answer.refusal is not None and verdict(answer).verdict == "not applicable"


def test_a_random_update_is_refused() -> None:
    real = scene(network, victims=3, batch=2)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(real.observations)]
    for answer in SparseBatch(samples=4096)(twins, ThreatModel(), real.victim, generator=stream()):
        assert answer.refusal is not None and "rank" in answer.refusal


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (convnet, "Conv2d"),
        (lambda: network(activation=nn.Sigmoid), "no ReLU"),
        (lambda: network(activation=nn.LeakyReLU), "no ReLU"),
        (lambda: network(activation=nn.Identity), "no ReLU"),
    ],
)
def test_other_networks_are_not_applicable(make: Callable[[], nn.Module], reason: str) -> None:
    real = scene(make, victims=1, batch=2)
    (answer,) = SparseBatch()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert answer.refusal is not None and reason in answer.refusal
    assert verdict(answer).verdict == "not applicable" and reason in verdict(answer).reason


def test_more_records_than_the_layer_has_units_have_full_rank() -> None:
    real = scene(lambda: network(width=6), victims=1, batch=8, mode="eval")
    (answer,) = SparseBatch()(real.observations, ThreatModel(), real.victim, generator=stream())
    assert answer.refusal is not None and "full rank" in answer.refusal


def test_a_small_budget_says_what_it_found() -> None:
    real = scene(lambda: network(width=80), victims=1, batch=16, mode="eval")
    (answer,) = SparseBatch(samples=1)(real.observations, ThreatModel(), real.victim, generator=stream())
    assert answer.refusal is not None and "raise samples" in answer.refusal
    with pytest.raises(UsageError, match="samples = 0; expected"):
        SparseBatch(samples=0)


def test_a_rectifier_is_known_by_what_it_lets_through() -> None:
    for activation, expected in ((nn.ReLU, True), (nn.GELU, False), (nn.Tanh, False)):
        real = scene(lambda kind=activation: network(0.5, activation=kind), victims=1)
        first, _, _ = first_layer(real.observations[0], real.victim, stream())
        assert rectified(real.observations[0], real.victim, first.layer, stream()) is expected
