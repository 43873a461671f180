"""The closed form is exact, says what it rests on, and refuses what it cannot answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import convnet, mlp, scene, stream
from fedlab_attacks.exact.algebra import certify, solve
from fedlab_attacks.exact.linear_layer import LinearLayer, agreeing
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.clients.config import ClientConfig, Mode
from fedlab.tasks import FunctionalModel, cross_entropy

TRAIN = ThreatModel()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("p", [0.0, 0.5, 0.75])
def test_one_record_comes_back_exactly_whatever_dropout_does(p: float, mode: Mode) -> None:
    real = scene(lambda: mlp(p), victims=8, mode=mode)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert float(real.psnr(answers).min()) >= 100.0
    for answer in answers:
        assert answer.details["rank"] == 1
        assert answer.residual < 1e-5


def test_by_hand() -> None:
    """δ = (2, 0, -1), x = (0.5, 0.25, 1, 0): ∂W = δ xᵀ, ∂b = δ, and a step of 0.1 sends minus a tenth."""
    x, cotangent = torch.tensor([0.5, 0.25, 1.0, 0.0]), torch.tensor([2.0, 0.0, -1.0])
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model = FunctionalModel(net, (1, 2, 2))
    state = model.state()
    update = {"1.weight": -0.1 * torch.outer(cotangent, x), "1.bias": -0.1 * cotangent}
    config = ClientConfig(batch_size=1, local_steps=1)
    observation = Observation(1, 0, state, update, {}, {}, config)
    victim = Victim(model, cross_entropy, (1, 2, 2), 3)
    (answer,) = LinearLayer()([observation], TRAIN, victim, generator=stream())
    assert answer.images is not None
    torch.testing.assert_close(answer.images.flatten(), x, atol=1e-6, rtol=0)


@given(
    seed=st.integers(0, 2**32),
    inputs=st.integers(2, 20),
    units=st.integers(2, 30),
    learning_rate=st.floats(1e-3, 1.0),
)
def test_exact_on_random_layers(seed: int, inputs: int, units: int, learning_rate: float) -> None:
    generator = stream(seed)
    x = torch.rand(inputs, generator=generator)
    cotangent = torch.randn(units, generator=generator)
    model = FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(inputs, units)), (1, 1, inputs))
    update = {"1.weight": -learning_rate * torch.outer(cotangent, x), "1.bias": -learning_rate * cotangent}
    config = ClientConfig(batch_size=1, local_steps=1, learning_rate=learning_rate)
    observation = Observation(1, 0, model.state(), update, {}, {}, config)
    victim = Victim(model, cross_entropy, (1, 1, inputs), units)
    # The learning rate cancels in ∂W / ∂b, so it may as well be secret.
    secretive = ThreatModel(learning_rate=False, client_mode=None, dropout_rate=False)
    (answer,) = LinearLayer()([observation], secretive, victim, generator=stream())
    assert answer.images is not None
    torch.testing.assert_close(answer.images.flatten(), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [2, 4, 8])
def test_a_batch_comes_back_from_units_that_one_record_alone_activates(batch: int) -> None:
    real = scene(mlp, victims=3, batch=batch)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert float(real.psnr(answers).median()) >= 100.0
    for answer in answers:
        assert answer.details["rank"] == batch and int(answer.details["confirmed"]) >= batch - 1
        assert answer.images is not None and len(answer.images) == batch


def test_confirmation_is_honest() -> None:
    """With 32 records hardly a unit belongs to one record; what is confirmed is right, the rest says so."""
    real = scene(mlp, victims=4, batch=32)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    for scores, answer in zip(real.psnr(answers), answers, strict=True):
        assert answer.images is not None and len(answer.images) == 32
        confirmed = int(answer.details["confirmed"])
        assert confirmed < 32
        assert int((scores >= 40.0).sum()) >= confirmed


def test_rows_that_agree_by_hand() -> None:
    """Rows 0 and 2 are one record alone, rows 1 and 3 another, row 4 mixes both: two confirmed images."""
    one, two = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.5]).double()
    bias = torch.tensor([1.0, -2.0, 3.0, 0.5, 2.0]).double()
    images = torch.stack([one, two, one, two, (one + two) / 2])
    identity, nothing = torch.ones(2).double(), torch.zeros(2).double()
    found, confirmed = agreeing(bias[:, None] * images, bias, identity, nothing, 2)
    assert confirmed == 2
    assert sorted(found.tolist()) == [one.tolist(), two.tolist()]


@pytest.mark.parametrize(
    ("mode", "known"), [("train", True), ("eval", True), ("train", False), ("eval", False)]
)
def test_without_a_bias_the_second_layer_gives_the_scale(mode: Mode, known: bool) -> None:
    real = scene(lambda: mlp(first_bias=False), victims=4, mode=mode)
    threat = ThreatModel(client_mode=mode if known else None)
    answers = LinearLayer()(real.observations, threat, real.victim, generator=stream())
    assert real.median(answers) >= 100.0
    assert {answer.details["scale"] for answer in answers} == {"second layer"}


def test_without_any_bias_the_brightest_pixel_is_assumed_to_be_white() -> None:
    def bare() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False)
        )

    real = scene(bare, victims=6)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    for truth, answer in zip(real.images, answers, strict=True):
        assert answer.images is not None and answer.details["scale"] == "brightest pixel is 1"
        torch.testing.assert_close(answer.images, truth / truth.max(), atol=1e-4, rtol=0)


def test_a_batch_through_a_bias_free_layer_is_refused() -> None:
    real = scene(lambda: mlp(first_bias=False), victims=1, batch=4)
    (answer,) = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert answer.refusal is not None and "no bias" in answer.refusal and "rank 4" in answer.refusal


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (convnet, "Conv2d"),
        (lambda: nn.Sequential(Shuffled(), nn.Flatten(), nn.Linear(64, 10)), "not fed with the pixels"),
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10)), "not fed with the pixels"),
        (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)), "one per pixel, 64"),
    ],
)
def test_other_first_layers_are_refused(network: Callable[[], nn.Module], reason: str) -> None:
    real = scene(network, victims=1)
    (answer,) = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert answer.refusal is not None and reason in answer.refusal


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.3) / 0.2


def test_normalisation_before_the_layer_is_undone() -> None:
    real = scene(lambda: nn.Sequential(Normalised(), mlp()), victims=3)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert real.median(answers) >= 100.0


def test_an_unknown_batch_size_is_read_off_the_rank() -> None:
    real = scene(mlp, victims=1, batch=3)
    hidden = [replace(o, examples=None) for o in real.observations]
    (answer,) = LinearLayer()(hidden, ThreatModel(batch_size=False), real.victim, generator=stream())
    assert answer.images is not None and len(answer.images) == 3
    assert real.median([answer]) >= 100.0


def softmax_regression() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def one_hidden_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))


def test_one_record_is_certified_and_its_residual_is_rounding() -> None:
    real = scene(victims=3)
    for answer in LinearLayer()(real.observations, TRAIN, real.victim, generator=stream()):
        (certificate,) = answer.certificates
        assert certificate.proves and certificate.rank == certificate.unknowns == 1
        assert certificate.null_space == 0 and certificate.residual < 1e-5


@pytest.mark.parametrize("share", [1e-4, 1e-2, 1.0])
def test_noise_is_never_certified(share: float) -> None:
    """Noise of a ten-thousandth of the update is still far above the rounding of float32."""
    real = scene(victims=2)
    noisy = []
    for index, observation in enumerate(real.observations):
        twin = random_twin(observation, stream(index))
        update = {n: v + share * twin.update[n] for n, v in observation.update.items()}
        noisy.append(replace(observation, update=update))
    for answer in LinearLayer()(noisy, TRAIN, real.victim, generator=stream()):
        (certificate,) = answer.certificates
        assert certificate.verdict == "not applicable" and "rounding" in certificate.reason


@pytest.mark.parametrize("network", [one_hidden_layer, softmax_regression])
@pytest.mark.parametrize("batch", [2, 4, 8])
def test_only_batches_that_are_right_are_certified(network: Callable[[], nn.Module], batch: int) -> None:
    """Rows agree on mixtures too, where labels are few or equal; the ReLU proof tells them from records."""
    real = scene(network, victims=12, batch=batch)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    for scores, answer in zip(real.psnr(answers).min(dim=1).values, answers, strict=True):
        (certificate,) = answer.certificates
        assert certificate.verdict in ("unique", "not unique")
        if certificate.proves:
            assert float(scores) > 60.0
        else:
            assert (certificate.null_space or 0) > 0 and certificate.reason


def test_a_batch_with_dropout_is_proven_record_by_record() -> None:
    real = scene(mlp, victims=4, batch=4)
    answers = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert [answer.details["proven"] for answer in answers] == [4, 4, 4, 4]
    assert all(answer.certificates[0].proves for answer in answers)


def test_the_span_of_a_batch_without_bias_has_its_null_space() -> None:
    """X and A X are alike for every invertible A (4, 4)."""
    real = scene(lambda: mlp(first_bias=False), victims=1, batch=4)
    (answer,) = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    (certificate,) = answer.certificates
    assert certificate.verdict == "not unique" and certificate.null_space == 16 and certificate.rank == 4


def test_weight_decay_is_taken_out() -> None:
    """A step of rate r on g + decay w leaves -r g - r decay w; the second part is known."""
    real = scene(victims=1)
    (observation,) = real.observations
    config = replace(observation.config, weight_decay=0.1, learning_rate=0.1)
    decayed = {n: v - 0.01 * observation.before[n] for n, v in observation.update.items()}
    (answer,) = LinearLayer()(
        [replace(observation, update=decayed, config=config)], TRAIN, real.victim, generator=stream()
    )
    assert answer.certificates[0].proves and real.median([answer]) > 100.0


def test_a_refusal_carries_its_certificate() -> None:
    real = scene(convnet, victims=1)
    (answer,) = LinearLayer()(real.observations, TRAIN, real.victim, generator=stream())
    assert [one.verdict for one in answer.certificates] == ["not applicable"]


@given(
    seed=st.integers(0, 2**32), rows=st.integers(3, 12), columns=st.integers(2, 12), rank=st.integers(1, 6)
)
def test_least_squares_know_their_null_space(seed: int, rows: int, columns: int, rank: int) -> None:
    """A of rank r: the solution explains A X, and A has no others than its null space of n - r."""
    generator = stream(seed)
    rank = min(rank, rows, columns)
    left, right = (torch.randn(n, rank, generator=generator).double() for n in (rows, columns))
    matrix = left @ right.T
    truth = torch.randn(columns, 2, generator=generator).double()
    found = solve(matrix, matrix @ truth)
    assert found.rank == rank and found.null_space == columns - rank
    assert found.residual < 1e-6


def test_verdicts_by_hand() -> None:
    numbers = {"rank": 2, "unknowns": 2, "condition": 1.0}
    assert certify("m", "x", **numbers, residual=1e-7, tolerance=1e-6).proves
    assert certify("m", "x", **numbers, residual=1e-5, tolerance=1e-6).verdict == "not applicable"
    coarse = certify("m", "x", **numbers, residual=0.1, tolerance=0.5)
    assert coarse.verdict == "not applicable" and "anything would fit" in coarse.reason
    opened = certify(
        "m", "x", **numbers, residual=0.0, tolerance=1e-6, open_="its size is open", null_space=1
    )
    assert opened.verdict == "not unique" and opened.null_space == 1
