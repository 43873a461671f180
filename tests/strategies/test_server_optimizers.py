"""Server optimizers: three steps by hand, and where torch and flwr go other ways."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedYogi

from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.strategies import SGD, Adagrad, Adam, Momentum, ServerOptimizer, Yogi
from tests.runtime.apps import adding_app

DELTAS = [[0.3, -0.02], [-0.1, 0.05], [0.2, 0.0]]


def steps(optimizer: ServerOptimizer, deltas: list[list[float]], state: Any = None) -> list[list[float]]:
    made, state = [], {} if state is None else state
    for delta in deltas:
        step, state = optimizer.step(torch.tensor(delta, dtype=torch.float64), state)
        made.append(step.tolist())
    return made


def close(made: list[list[float]], expected: list[list[float]]) -> bool:
    return np.allclose(made, expected, rtol=1e-12, atol=1e-15)


def test_momentum_by_hand() -> None:
    """β = 1/2: v is (1, -2), (1/2, -1) + (0, 4) = (1/2, 3), (1/4, 3/2) + (2, 0); η = 2 doubles it."""
    deltas = [[1.0, -2.0], [0.0, 4.0], [2.0, 0.0]]
    by_hand = [[2.0, -4.0], [1.0, 6.0], [4.5, 3.0]]
    assert steps(Momentum(learning_rate=2.0, beta=0.5), deltas) == by_hand
    assert steps(SGD(learning_rate=2.0, momentum=0.5), deltas) == by_hand


def test_without_memory_it_is_plain_averaging() -> None:
    for optimizer in (SGD(), Momentum(beta=0.0)):
        assert steps(optimizer, DELTAS) == DELTAS
    assert SGD().step(torch.ones(2), {})[1] == {}


def test_momentum_is_torch_sgds_without_dampening() -> None:
    """torch descends: its gradient is -Δ."""
    parameter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([parameter], lr=0.7, momentum=0.9)
    ours = steps(Momentum(learning_rate=0.7, beta=0.9), DELTAS)
    for delta, step in zip(DELTAS, ours, strict=True):
        before = parameter.detach().clone()
        parameter.grad = -torch.tensor(delta, dtype=torch.float64)
        theirs.step()
        assert close([(parameter.detach() - before).tolist()], [step])


def test_adagrad_by_hand() -> None:
    """τ = 4, so v starts at 16. √v is 5 = √(16 + 3²), 13 = √(25 + 12²), 85 = √(169 + 84²) in the first
    coordinate; 4, 5 and 13 in the second. With β₁ = 0 a step is Δ / (√v + 4)."""
    deltas = [[3.0, 0.0], [12.0, 3.0], [84.0, 12.0]]
    assert close(
        steps(Adagrad(learning_rate=1.0, tau=4.0), deltas),
        [[3 / 9, 0.0], [12 / 17, 3 / 9], [84 / 89, 12 / 17]],
    )


def test_adam_by_hand() -> None:
    """β₁ = β₂ = 1/2 and τ = 2, so v starts at 4.

    First coordinate, Δ = 2, 14, -10: v is (4 + 4)/2 = 4, (4 + 196)/2 = 100, (100 + 100)/2 = 100; m is 1, 7.5,
    -1.25. Second, Δ = 14, -10, 70: v is 100, 100, 2500; m is 7, -1.5, 34.25. A step is m / (√v + 2).
    """
    optimizer = Adam(learning_rate=1.0, beta1=0.5, beta2=0.5, tau=2.0)
    assert close(
        steps(optimizer, [[2.0, 14.0], [14.0, -10.0], [-10.0, 70.0]]),
        [[1 / 4, 7 / 12], [7.5 / 12, -1.5 / 12], [-1.25 / 12, 34.25 / 52]],
    )


def test_yogi_by_hand() -> None:
    """β₁ = β₂ = 1/2 and τ = 2, so v starts at 4; it moves by Δ²/2 towards Δ², up or down.

    First coordinate, Δ = 8, 16/3, 56/3: v is 4 + 32 = 36, 36 - 128/9 = (14/3)², (14/3)² + 1568/9 = 14²; m is
    4, 14/3, 35/3. Second, Δ = 2, -8, 0: v stays 4 (Δ² = v), then 36, then 36 (Δ = 0); m is 1, -3.5, -1.75.
    """
    optimizer = Yogi(learning_rate=1.0, beta1=0.5, beta2=0.5, tau=2.0)
    assert close(
        steps(optimizer, [[8.0, 2.0], [16 / 3, -8.0], [56 / 3, 0.0]]),
        [[4 / 8, 1 / 4], [14 / 20, -3.5 / 8], [35 / 48, -1.75 / 8]],
    )


def test_adam_differs_from_torchs_by_the_bias_correction_alone() -> None:
    """With v from 0 on, as torch has it, m and v are torch's; torch's step is
    η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + τ), ours η m / (√v + τ)."""
    parameter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    ours, state = Adam(learning_rate=0.1), {"m": torch.zeros(2), "v": torch.zeros(2)}
    for t, delta in enumerate(torch.tensor(DELTAS, dtype=torch.float64), 1):
        before = parameter.detach().clone()
        parameter.grad = -delta
        theirs.step()
        step, state = ours.step(delta, state)
        m, v = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.99**t)
        corrected = 0.1 * m / (v.sqrt() + 1e-3)
        assert torch.allclose(parameter.detach() - before, corrected, rtol=1e-12, atol=0)
        assert torch.allclose(step, 0.1 * state["m"] / (state["v"].sqrt() + 1e-3), rtol=1e-12, atol=0)
        assert not torch.allclose(step, corrected, rtol=0.05)


def flwrs(strategy: Any, v: float) -> list[list[float]]:
    """The steps that a strategy of flwr's makes of `DELTAS`, one client a round, with v from `v` on."""
    grid = SimulationGrid(adding_app(), 1)
    x, made = np.zeros(2), []
    strategy.v_t = {"w": np.full(2, v)}
    for number, delta in enumerate(DELTAS, 1):
        sent = ArrayRecord({"w": Array(x)})
        strategy.current_arrays = {"w": x}
        message = Message(RecordDict({"arrays": sent, "config": ConfigRecord()}), 2, "train")
        grid.push_messages([message])
        metrics = MetricRecord({"num-examples": 1})
        answer = RecordDict({"arrays": ArrayRecord({"w": Array(x + delta)}), "metrics": metrics})
        arrays, _ = strategy.aggregate_train(number, [Message(answer, reply_to=message)])
        made.append((arrays["w"].numpy() - x).tolist())
        x = arrays["w"].numpy()
    return made


def test_yogi_and_adagrad_are_flwrs_but_for_the_start_of_v() -> None:
    yogi, adagrad = {"eta": 0.5, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}, {"eta": 0.5, "tau": 0.01}
    ours = [Yogi(0.5, 0.8, 0.9, 0.01), Adagrad(0.5, tau=0.01)]
    for mine, theirs in zip(ours, (lambda: FedYogi(**yogi), lambda: FedAdagrad(**adagrad)), strict=True):
        assert np.allclose(flwrs(theirs(), 0.01**2), steps(mine, DELTAS), rtol=1e-9)
        assert not np.allclose(flwrs(theirs(), 0.0), steps(mine, DELTAS), rtol=1e-9)


def test_flwrs_adam_corrects_the_bias_of_a_step_too_many() -> None:
    """FedAdam multiplies η by √(1 - β₂ᵗ⁺¹) / (1 - β₁ᵗ⁺¹) in round t, as if one step had gone before."""
    theirs = flwrs(FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3), 1e-6)
    factors = [math.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1)) for t in (1, 2, 3)]
    ours = steps(Adam(), DELTAS)
    assert np.allclose(theirs, np.multiply(ours, np.array(factors)[:, None]), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: SGD(learning_rate=value), "learning_rate"),
        (lambda value: Momentum(learning_rate=value), "learning_rate"),
        (lambda value: Adagrad(tau=value), "tau"),
        (lambda value: Adam(learning_rate=value), "learning_rate"),
        (lambda value: Yogi(tau=value), "tau"),
    ],
)
def test_rates_are_above_zero(make: Any, name: str) -> None:
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=rf"{name} = {value}; expected a finite number above 0"):
            make(value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: SGD(momentum=value), "momentum"),
        (lambda value: Momentum(beta=value), "beta"),
        (lambda value: Adagrad(beta1=value), "beta1"),
        (lambda value: Adam(beta2=value), "beta2"),
        (lambda value: Yogi(beta1=value), "beta1"),
    ],
)
def test_memories_fade(make: Any, name: str) -> None:
    for value in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match=rf"{name} = {value}; expected at least 0 and below 1"):
            make(value)
