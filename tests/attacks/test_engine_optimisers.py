"""Optimisers, schedules and starts against torch's own and against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attack_scene import stream
from fedlab_attacks.optimise.lbfgs import LBFGS
from fedlab_attacks.optimise.optimisers import POLISH, Adam, Decays, Optimiser, WarmCosine, constant
from fedlab_attacks.optimise.starts import Constant, Patterned, normal, start_named, uniform
from torch import Tensor

from fedlab.errors import UnknownName

Function = Callable[[Tensor], Tensor]


def minimise(
    optimiser: Optimiser, function: Function, start: Tensor, iterations: int, pixels: int = 0
) -> list[Tensor]:
    """The points (V, N) at which the function (V,) was evaluated."""
    state, flat, points = optimiser.start(start), start, [start]
    for i in range(iterations):
        leaf = flat.detach().requires_grad_()
        value = function(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        flat = optimiser.move(state, flat, value.detach(), slope, i=i, factor=1.0, pixels=pixels)
        points.append(flat)
    return points


def bowl(x: Tensor) -> Tensor:
    """A quadratic whose curvatures go from 1 to 100; least at 0.3."""
    scale = torch.logspace(0, 2, x.shape[1], dtype=x.dtype)
    return ((x - 0.3).square() * scale).sum(1) / 2


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


def test_adam_is_torchs() -> None:
    start = torch.randn(2, 5, generator=stream(), dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        bowl(theirs).sum().backward()
        optimiser.step()
    torch.testing.assert_close(minimise(Adam(0.1), bowl, start, 20)[-1], theirs.detach())


def test_signs_are_for_pixels_only() -> None:
    """Adam's first step is step * slope / |slope|: with the sign or without. The second tells them apart."""
    start = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    signed = minimise(Adam(0.1, signed=True), bowl, start, 3, pixels=1)
    plain = minimise(Adam(0.1), bowl, start, 3)
    assert float(signed[1][0, 0]) == pytest.approx(0.9) and float(plain[1][0, 0]) == pytest.approx(0.9)
    assert float(signed[3][0, 0]) == pytest.approx(0.7, abs=1e-6)  # three full steps
    assert float(signed[3][0, 0]) != float(plain[3][0, 0])
    assert signed[3][0, 1].equal(plain[3][0, 1])


def test_a_soft_sign_lies_between_the_slope_and_its_sign() -> None:
    """tanh(slope / (soft * mean size)): slopes 1 and 3 have mean size 2."""
    slope = torch.tensor([[1.0, -3.0]])
    state = (optimiser := Adam(0.1, signed=True, soft=0.5)).start(slope)
    optimiser.move(state, slope, torch.zeros(1), slope.clone(), i=0, factor=1.0, pixels=2)
    torch.testing.assert_close(state["mean"], torch.tanh(torch.tensor([[1.0, -3.0]])) * 0.1)


def test_lbfgs_solves_a_quadratic_in_few_evaluations() -> None:
    start = torch.randn(3, 10, generator=stream(), dtype=torch.float64)
    points = minimise(LBFGS(), bowl, start, 60)
    assert float(bowl(points[-1]).max()) < 1e-12


def test_lbfgs_solves_rosenbrocks_valley_for_each_row() -> None:
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    points = minimise(LBFGS(), rosenbrock, start, 120)
    torch.testing.assert_close(points[-1], torch.ones(3, 2, dtype=torch.float64), atol=1e-5, rtol=0)


def test_lbfgs_rows_do_not_see_each_other() -> None:
    start = torch.randn(4, 6, generator=stream(), dtype=torch.float64)
    together = minimise(LBFGS(memory=3), rosenbrock, start, 40)[-1]
    for row in range(4):
        alone = minimise(LBFGS(memory=3), rosenbrock, start[row : row + 1], 40)[-1]
        torch.testing.assert_close(together[row], alone[0], rtol=1e-9, atol=1e-9)


def test_lbfgs_never_accepts_a_higher_value_and_survives_walls() -> None:
    """A function that is infinite beyond 1: the line search backs out of there."""

    def walled(x: Tensor) -> Tensor:
        return torch.where((x > 1).any(1), torch.inf, (x - 0.99).square().sum(1))

    optimiser = LBFGS()
    start = torch.tensor([[-3.0, -3.0]], dtype=torch.float64)
    state, flat, accepted = optimiser.start(start), start, []
    for i in range(40):
        leaf = flat.detach().requires_grad_()
        value = walled(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        flat = optimiser.move(state, flat, value.detach(), slope.nan_to_num(), i=i, factor=1.0, pixels=0)
        accepted.append(float(state["value"]))
    assert accepted == sorted(accepted, reverse=True) and accepted[-1] < 1e-10


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (constant, {0: 1.0, 99: 1.0}),
        (Decays(), {0: 1.0, 36: 1.0, 37: 0.1, 62: 0.01, 87: 0.001, 99: 0.001}),
        (POLISH, {24: 1.0, 25: 0.1, 50: 0.01, 75: 0.001}),
        (WarmCosine(0.1), {0: 0.1, 9: 1.0, 54: 0.5, 99: 0.0}),
    ],
)
def test_schedules_by_hand(schedule: Callable[[int, int], float], factors: dict[int, float]) -> None:
    for i, factor in factors.items():
        assert schedule(i, 100) == pytest.approx(factor, abs=1e-9)


SHAPE = (2, 3, 1, 8, 9)


@pytest.mark.parametrize("start", [uniform, normal, Patterned(3), Constant(0.25)])
def test_starts_lie_in_the_box_and_come_from_the_generator(
    start: Callable[..., Tensor],
) -> None:
    first, again = start(SHAPE, stream()), start(SHAPE, stream())
    assert first.shape == SHAPE and first.equal(again)
    assert float(first.min()) >= 0.0 and float(first.max()) <= 1.0
    varies = not start(SHAPE, stream(1)).equal(first)
    assert varies == (not isinstance(start, Constant))


def test_a_pattern_repeats() -> None:
    image = Patterned(4)((1, 1, 1, 8, 10), stream())
    assert image[..., :4, :4].equal(image[..., 4:, 4:8]) and image[..., :2].equal(image[..., 8:])


def test_an_unknown_start_is_named() -> None:
    with pytest.raises(UnknownName, match="patterned"):
        start_named("paterned")
