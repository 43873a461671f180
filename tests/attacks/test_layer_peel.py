"""Layer peeling: exact on chains of sufficient rank, with a null space of known dimension on others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import Scene, scene, stream
from fedlab_attacks.exact.convolution import Factor, LinearMap
from fedlab_attacks.exact.layer_peel import LayerPeel
from torch import Tensor, nn
from torch.nn import functional

from fedlab.audit.attack import Reconstruction
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.errors import NotApplicable
from fedlab.tasks.models.lenet import lenet

Network = Callable[[], nn.Module]


def stack(
    activation: Callable[[], nn.Module] = nn.LeakyReLU, before: float = 0.0, after: float = 0.5
) -> nn.Module:
    """64 -> 128 -> 256 -> 32 -> 10: every layer has more outputs than inputs, up to the linear one."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(8, 16, 3, padding=1),
        activation(),
        nn.Flatten(),
        nn.Dropout(before),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Dropout(after),
        nn.Linear(32, 10),
    )


def narrow() -> nn.Module:
    """16 outputs and 9 weights for 64 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 10)
    )


def without_bias() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 80, bias=False),
        nn.Tanh(),
        nn.Linear(80, 60, bias=False),
        nn.ELU(),
        nn.Linear(60, 10),
    )


def frozen(net: nn.Module, name: str) -> nn.Module:
    net.get_submodule(name).requires_grad_(False)
    return net


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        out: Tensor = self.head((x + self.b(x)).flatten(1))
        return out


def attack(
    one: Scene, observations: list[Observation] | None = None, threat: ThreatModel | None = None
) -> list[Reconstruction]:
    told = threat or ThreatModel()
    return LayerPeel()(observations or one.observations, told, one.victim, generator=stream())


def only(answer: Reconstruction) -> Certificate:
    (certificate,) = answer.certificates
    return certificate


@pytest.mark.parametrize(
    "network",
    [
        stack,
        functools.partial(stack, nn.Tanh),
        functools.partial(stack, nn.Sigmoid),
        functools.partial(stack, nn.Softplus),
        functools.partial(stack, before=0.25),
        functools.partial(lenet, (1, 8, 8), 10, width=6, dropout=0.2),
        without_bias,
    ],
)
def test_a_record_is_exact_and_certified(network: Network) -> None:
    one = scene(network, victims=3, learning_rate=1.0)
    answers = attack(one)
    assert all(only(answer).proves for answer in answers), [answer.refusal for answer in answers]
    assert float(one.psnr(answers).min()) > 80.0
    for answer in answers:
        found = only(answer)
        assert found.rank == found.unknowns and found.null_space == 0
        # What is said about the error is right up to a factor.
        error = float(answer.details["expected error"])
        assert 10 ** (-one.median([answer] * 3) / 20) < 100 * max(error, 1e-9) or error < 1e-3


def test_fewer_equations_than_pixels_leave_a_null_space_of_known_dimension() -> None:
    """16 weight constraints and 9 gradient constraints, with one relation: W · ∂W = Σ δ · (W x)."""
    for answer in attack(scene(narrow, victims=2)):
        found = only(answer)
        assert found.verdict == "not unique" and found.rank == 24 and found.null_space == 64 - 24
        assert answer.images is None and "25 equations of rank 24 for 64 inputs" in str(answer.refusal)


def test_dropped_units_are_left_out_of_the_equations() -> None:
    one = scene(functools.partial(stack, before=0.25), victims=3, learning_rate=1.0)
    for answer in attack(one):
        assert 30 <= int(answer.details["dropped"]) <= 100  # 64 of 256 expected
    (denied, *_) = attack(one, threat=ThreatModel(dropout_rate=False))
    assert denied.images is None and "rate" in str(denied.refusal)


def test_evaluation_mode_drops_nothing() -> None:
    one = scene(functools.partial(stack, before=0.25), victims=2, mode="eval", learning_rate=1.0)
    answers = attack(one)
    assert float(one.psnr(answers).min()) > 80.0 and answers[0].details["dropped"] == 0


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (functools.partial(stack, nn.ReLU), "relu between 0 and 2 is not injective"),
        (functools.partial(stack, nn.GELU), "gelu between 0 and 2 is not injective"),
        (lambda: nn.Sequential(stack()[:2], nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10)), "pooling"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)),
            "BatchNorm",
        ),
        (Skip, "no known injective function"),
        (lambda: frozen(stack(), "0"), "the weights of 0 are frozen"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
            "no linear layer of the network has a bias",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)
            ),
            "dropped in front of 2",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(128, 10)
            ),
            "in groups",
        ),
    ],
)
def test_other_networks_are_not_applicable_and_say_why(network: Network, reason: str) -> None:
    (answer,) = attack(scene(network, victims=1))
    assert answer.images is None and answer.refusal is not None and reason in answer.refusal
    assert only(answer).verdict == "not applicable" and reason in str(only(answer))


def test_a_batch_is_not_taken_for_one_record() -> None:
    real = scene(stack, victims=2, batch=2, learning_rate=1.0)
    for answer in attack(real):
        assert answer.images is None and "2 records; one is solved for" in str(answer.refusal)
    uncounted = ThreatModel(batch_size=False)
    for answer in LayerPeel()(real.observations, uncounted, real.victim, generator=stream()):
        assert answer.images is None and "not explained up to rounding" in str(answer.refusal)


@pytest.mark.parametrize("network", [stack, narrow, without_bias])
def test_noise_is_never_certified(network: Network) -> None:
    one = scene(network, victims=3)
    twins = [random_twin(observation, stream(i)) for i, observation in enumerate(one.observations)]
    assert all(answer.images is None and not only(answer).proves for answer in attack(one, twins))


def test_noise_on_a_convolution_alone_is_seen() -> None:
    """Its weights were not needed for the solution, and still contradict it."""
    one = scene(stack, victims=1, learning_rate=1.0)
    (observation,) = one.observations
    weight = observation.update["0.weight"]
    noise = (
        0.1
        * weight.norm()
        * torch.nn.functional.normalize(torch.randn(weight.shape, generator=stream()), dim=None)
    )
    (answer,) = attack(one, [replace(observation, update={**observation.update, "0.weight": weight + noise})])
    assert only(answer).verdict == "not applicable"


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (2, 2, 2), (3, 0, 1)])
def test_a_convolution_is_a_matrix(stride: int, padding: int, dilation: int) -> None:
    layer = nn.Conv2d(2, 3, 3, stride, padding, dilation).double()
    shape = torch.Size((2, 7, 6))
    found = LinearMap.of(layer, layer.weight.detach(), layer.bias, shape)
    x = torch.randn(84, dtype=torch.float64, generator=stream()).requires_grad_()
    out = functional.conv2d(x.reshape(1, *shape), layer.weight, None, stride, padding, dilation)[0].flatten(1)
    assert torch.allclose(found.apply(x.detach()), out)
    matrix = torch.stack([found.apply(row).flatten() for row in torch.eye(84, dtype=torch.float64)], dim=1)
    delta = torch.randn(out.shape, dtype=torch.float64, generator=stream(1))
    slopes = torch.autograd.grad((out * delta).sum(), [x, layer.weight])
    assert torch.allclose(found.adjoint(delta), slopes[0])
    assert torch.allclose(found.gradient(x.detach(), delta), slopes[1].flatten(1))
    assert torch.allclose(found.normal(), matrix.T @ matrix)
    share = torch.rand(out.shape, dtype=torch.float64, generator=stream(2))
    assert torch.allclose(found.normal(share), matrix.T @ (share.flatten()[:, None] * matrix))
    second = torch.stack(
        [found.gradient(row, delta).flatten() for row in torch.eye(84, dtype=torch.float64)], dim=1
    )
    assert torch.allclose(found.gradient_normal(delta), second.T @ second)
    change = torch.randn(slopes[1].flatten(1).shape, dtype=torch.float64, generator=stream(3))
    assert torch.allclose(found.gradient_adjoint(change, delta), second.T @ change.flatten())


def test_layers_too_large_or_of_another_kind_are_refused() -> None:
    layer = nn.Conv2d(3, 3, 3)
    with pytest.raises(NotApplicable, match="12288 inputs"):
        LinearMap.of(layer, layer.weight, layer.bias, torch.Size((3, 64, 64)))
    norm = nn.LayerNorm(4)
    with pytest.raises(NotApplicable, match="neither linear nor a convolution"):
        LinearMap.of(norm, norm.weight, norm.bias, torch.Size((4,)))


@pytest.mark.parametrize("rank", [3, 7, 12])
def test_a_factor_counts_its_rank(rank: int) -> None:
    matrix = torch.randn(20, rank, dtype=torch.float64, generator=stream()) @ torch.randn(
        rank, 12, dtype=torch.float64, generator=stream(1)
    )
    found = Factor.of(matrix.T @ matrix)
    assert found.rank == rank and (found.lower is not None) == (rank == 12)
    if rank == 12:
        singular = torch.linalg.svdvals(matrix)
        assert found.condition == pytest.approx(float(singular[0] / singular[-1]), rel=0.05)
