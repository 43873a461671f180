"""Objectives against closed forms and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import Scene, scene, small_mlp, stream
from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.objectives import CosineDistance, cosine, l2, layered, masked, sign
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from torch import Tensor, nn

OBJECTIVES: dict[str, Term] = {
    "cosine": cosine,
    "l2": l2,
    "sign": sign,
    "masked cosine": masked(cosine),
    "layered l2": layered(l2),
    "layered cosine": layered(cosine, {"1.weight": 2.0, "1.bias": 0.5, "3.weight": 1.0, "3.bias": 0.0}),
}


def smooth() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Sigmoid(), nn.Linear(12, 10))


def problem_of(real: Scene) -> Problem:
    return Problem.of(real.victim, real.observations, torch.stack(real.labels), training=False)


def unit(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    norm = torch.cat([t.flatten(1) for t in tensors], dim=1).norm(dim=1)
    return [t / norm.view(-1, *([1] * (t.dim() - 1))) for t in tensors]


def test_the_distance_and_its_derivative_agree_with_autograd() -> None:
    generator = stream()
    targets = unit([torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, generator=generator)])
    ours = [torch.randn(t.shape, generator=generator, requires_grad=True) for t in targets]
    theirs = [g.detach().clone().requires_grad_() for g in ours]
    distance = CosineDistance.apply(targets, [torch.empty_like(t) for t in targets], *ours)
    flat, goal = (torch.cat([t.flatten(1) for t in ts], dim=1) for ts in (theirs, targets))
    reference = 1.0 - torch.nn.functional.cosine_similarity(flat, goal, dim=1)
    torch.testing.assert_close(distance, reference)
    weights = torch.tensor([1.0, -2.0, 0.5])
    for a, b in zip(
        torch.autograd.grad((distance * weights).sum(), ours),
        torch.autograd.grad((reference * weights).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_distance_does_not_cancel_when_it_is_small() -> None:
    """At an angle of 1e-5, 1 - cos is 5e-11: float32 has lost that in 1 - cos, but not in ‖u - t‖² / 2."""
    target = torch.tensor([[1.0, 0.0]])
    near = torch.tensor([[1.0, 1e-5]], requires_grad=True)
    distance = CosineDistance.apply([target], [torch.empty_like(target)], near)
    assert float(distance.detach()) == pytest.approx(5e-11, rel=1e-3)
    (slope,) = torch.autograd.grad(distance.sum(), near)
    assert float(slope[0, 1]) == pytest.approx(1e-5, rel=1e-3)


def test_the_truth_has_no_residual() -> None:
    real = scene(victims=3, mode="eval")
    problem = problem_of(real)
    truth = Variables(torch.stack(real.images))
    assert float(cosine(problem, truth, simulate(problem, truth)).max()) < 1e-10


def by_hand(target: list[list[float]], update: list[list[float]]) -> tuple[Problem, Simulated]:
    """A problem whose observed update has the rows `target`, each cut into parameters "a" (2) and "b"."""
    real = scene(small_mlp, victims=len(target), mode="eval")
    goal, found = torch.tensor(target), torch.tensor(update)
    norm = goal.norm(dim=1)
    unit = goal / norm[:, None]
    problem = replace(problem_of(real), target={"a": unit[:, :2], "b": unit[:, 2:]}, norm=norm)
    return problem, Simulated({"a": found[:, :2], "b": found[:, 2:]}, {}, {})


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (cosine, 1 - 1 / math.sqrt(2)),  # (3, 0, 4) against (3, 5, 4): 25 / (5 sqrt 50)
        (l2, 1.0),  # 25 / 25
        (sign, 1 - 7 / 7),  # the middle coordinate was sent as zero: no sign there
        (masked(cosine), 0.0),
        (masked(l2), 0.0),
        (layered(l2, {"a": 0.0, "b": 1.0}), 0.0),  # only "b" counts, and agrees
        (layered(l2, {"a": 4.0, "b": 1.0}), 100 / 52),  # (6, 0, 4) against (6, 10, 4)
        (layered(l2), 25 / (9 + 16 * math.exp(-1))),
    ],
)
def test_values_by_hand(objective: Term, expected: float) -> None:
    problem, simulated = by_hand([[3.0, 0.0, 4.0]], [[3.0, 5.0, 4.0]])
    value = objective(problem, Variables(torch.zeros(1, 1, 1, 8, 8)), simulated)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_the_sign_distance_is_twice_the_share_of_what_disagrees() -> None:
    """Signs (+, -, +) against (1, 1, -2): only the first agrees, 3 of 4 in length do not."""
    problem, simulated = by_hand([[1.0, -1.0, 1.0]], [[1.0, 1.0, -2.0]])
    value = sign(problem, Variables(torch.zeros(1, 1, 1, 8, 8)), simulated)
    assert float(value) == pytest.approx(1.5)


def value_of(objective: Term, problem: Problem) -> Callable[[Tensor], Tensor]:
    def value(images: Tensor) -> Tensor:
        variables = Variables(images)
        return objective(problem, variables, simulate(problem, variables))

    return value


@pytest.mark.parametrize("name", OBJECTIVES)
def test_derivatives_against_finite_differences(name: str) -> None:
    real = scene(smooth, victims=2, mode="eval")
    problem = double(problem_of(real))
    generator = stream()
    images = torch.rand(2, 1, 1, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    along = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    value = value_of(OBJECTIVES[name], problem)
    (slope,) = torch.autograd.grad(value(images).sum(), images)
    h = 1e-5
    with torch.no_grad():
        difference = (value(images + h * along) - value(images - h * along)).sum() / (2 * h)
    assert float((slope * along).sum()) == pytest.approx(float(difference), rel=1e-4, abs=1e-9)


def double(problem: Problem) -> Problem:
    parameters, buffers, target = (
        {name: value.double() for name, value in state.items()}
        for state in (problem.parameters, problem.buffers, problem.target)
    )
    return replace(problem, parameters=parameters, buffers=buffers, target=target, norm=problem.norm.double())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_truth_has_no_distance_and_noise_has_one(name: str) -> None:
    """Signs of a first layer's gradient do not depend on positive pixels: there noise is as good."""
    real = scene(smooth, victims=2, mode="eval")
    value = value_of(OBJECTIVES[name], problem_of(real))
    truth, noise = value(torch.stack(real.images)), value(torch.rand(2, 1, 1, 8, 8, generator=stream()))
    assert bool((truth < 1e-6).all())
    assert bool((noise > 0.01).all()) or name == "sign"


def test_epochs_are_scaled_by_their_steps() -> None:
    """Two epochs of 4 records in batches of 2 are 4 steps, whether they are told as steps or as epochs."""
    one = scene(victims=1)
    (observation,) = one.observations
    config = replace(observation.config, batch_size=2, local_steps=4)
    told = [config, replace(config, local_steps=None, local_epochs=2)]
    seen = [replace(observation, config=each, examples=4) for each in told]
    norms = [Problem.of(one.victim, [each], one.labels[0][None], training=False).norm for each in seen]
    torch.testing.assert_close(norms[0], norms[1])
