"""The algorithms round by round against loops written out from the papers, on three quadratics.

f_i(x) = a_i (x − b_i)²/2; two clients of three are asked, so that those left out matter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedlab.clients import LocalRule
from fedlab.clients.rules.feddyn import FedDyn
from fedlab.clients.rules.fednova import FedNova, gradients_in
from fedlab.clients.rules.mime import MimeLite
from fedlab.clients.rules.momentum import FedAvgM, FedAvgMVR
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.rules.scaffold_momentum import ScaffoldM, ScaffoldMVR
from tests.clients.quadratics import CENTRES, CURVATURES, Federation, configured

N, K, ETA = 3, 5, 0.1
ROUNDS = 9


def slope(i: int, x: float) -> float:
    return CURVATURES[i] * (x - CENTRES[i])


def asked(federation: Federation, round: int) -> list[int]:
    """Clients of a round, as places in the list."""
    nodes = list(federation.grid.get_node_ids())
    return [nodes.index(node) for node in federation.strategy.schedule.sample(nodes, round)]


def near(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_is_algorithm_1_of_its_paper(option: str) -> None:
    """Option II here as the paper has it: c_i − c + (x − y)/(Kη). c stays the mean of all c_i."""
    federation = Federation(Scaffold(option=option), cohort=2)  # type: ignore[arg-type]
    x, c, own = 0.0, 0.0, [0.0] * N
    for round in range(1, ROUNDS + 1):
        cohort, ends, changes = asked(federation, round), [], []
        for i in cohort:
            y = x
            for _ in range(K):
                y -= ETA * (slope(i, y) - own[i] + c)
            new = slope(i, x) if option == "I" else own[i] - c + (x - y) / (K * ETA)
            ends.append(y)
            changes.append(new - own[i])
            own[i] = new
        x += sum(y - x for y in ends) / 2
        c += sum(changes) / N
        assert [federation.after(1)] == near([x])
        assert federation.memory("control") == near(own)
        assert [federation.server("control")] * 2 == near([c, sum(own) / N])


Step = Callable[[int, float, float, float, float, float], float]
"""(client, y, x of the round before, c_i, c, g) -> direction, β being 0.3."""

BETA = 0.3
STEPS: dict[str, tuple[LocalRule, Step]] = {
    "fedavg-m": (FedAvgM(beta=BETA), lambda i, y, old, own, c, g: BETA * slope(i, y) + (1 - BETA) * g),
    "fedavg-m-vr": (
        FedAvgMVR(beta=BETA),
        lambda i, y, old, own, c, g: slope(i, y) + (1 - BETA) * (g - slope(i, old)),
    ),
    "scaffold-m": (
        ScaffoldM(beta=BETA),
        lambda i, y, old, own, c, g: BETA * (slope(i, y) - own + c) + (1 - BETA) * g,
    ),
    "scaffold-m-vr": (
        ScaffoldMVR(beta=BETA),
        lambda i, y, old, own, c, g: slope(i, y) - BETA * (own - c) + (1 - BETA) * (g - slope(i, old)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_momentum_is_the_mean_local_direction_of_the_round_before(name: str) -> None:
    """g <- (1/(ηSK)) Σ (x − y); c_i the mean of the raw gradients; x <- x − ηK g."""
    rule, step = STEPS[name]
    federation = Federation(rule, cohort=2)
    x, old, g, c, own = 0.0, 0.0, 0.0, 0.0, [0.0] * N
    for round in range(1, ROUNDS + 1):
        cohort, ends, change = asked(federation, round), [], 0.0
        for i in cohort:
            y, total, before = x, 0.0, own[i]
            for _ in range(K):
                total += slope(i, y)
                y -= ETA * step(i, y, old, before, c, g)
            ends.append(y)
            own[i] = total / K
            change += own[i] - before
        g, old = sum(x - y for y in ends) / (ETA * 2 * K), x
        x -= ETA * K * g
        c += change / N
        assert [federation.after(1), federation.server("momentum")] == near([x, -ETA * g])
        if "scaffold" in name:
            assert federation.memory("control") == near(own)
            assert [federation.server("control")] * 2 == near([c, sum(own) / N])


def test_mime_lite_freezes_the_momentum_and_moves_it_by_full_gradients() -> None:
    federation = Federation(MimeLite(beta=0.6), cohort=2)
    x, m = 0.0, 0.0
    for round in range(1, ROUNDS + 1):
        cohort, ends = asked(federation, round), []
        for i in cohort:
            y = x
            for _ in range(K):
                y -= ETA * (0.6 * m + 0.4 * slope(i, y))
            ends.append(y)
        m = 0.6 * m + 0.4 * sum(slope(i, x) for i in cohort) / 2
        x = sum(ends) / 2
        assert [federation.after(1), federation.server("momentum")] == near([x, m])


def test_feddyn_is_algorithm_1_of_its_paper() -> None:
    federation = Federation(FedDyn(alpha=2.0), cohort=2)
    x, h, bent = 0.0, 0.0, [0.0] * N
    for round in range(1, ROUNDS + 1):
        cohort, ends = asked(federation, round), []
        for i in cohort:
            y = x
            for _ in range(K):
                y -= ETA * (slope(i, y) - bent[i] + 2.0 * (y - x))
            bent[i] -= 2.0 * (y - x)
            ends.append(y)
        h -= 2.0 / N * sum(y - x for y in ends)
        x = sum(ends) / 2 - h / 2.0
        assert [federation.after(1), federation.server("drift")] == near([x, h])
        assert federation.memory("lambda") == near(bent)


@pytest.mark.parametrize(("momentum", "held"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.0), (0.0, 0.02), (0.0, 0.9)])
def test_the_gradients_in_an_update_are_counted(momentum: float, held: float) -> None:
    """A gradient of one in each step, by SGD with momentum or held back to where it started, at η = 1."""
    for steps in (1, 2, 7):
        y = velocity = 0.0
        for _ in range(steps):
            velocity = momentum * velocity + 1.0
            y += velocity - held * y
        counted = gradients_in(torch.tensor([float(steps)], dtype=torch.float64), momentum, held)
        assert counted.tolist() == pytest.approx([y], rel=1e-12)


def test_fednova_takes_momentum_into_account() -> None:
    """K = (1, 5, 20), ρ = 0.5: τ Σ p_i Δ_i/‖a_i‖₁, with ‖a‖₁ summed up from the momentum's weights."""
    config = configured(learning_rate=0.01, momentum=0.5, local_steps=None, local_epochs=1)
    federation = Federation(FedNova(), config, epochs=(1, 5, 20))
    x = 0.0
    for _ in range(ROUNDS):
        moves, counts = [], []
        for i, steps in enumerate((1, 5, 20)):
            y, velocity = x, 0.0
            for _ in range(steps):
                velocity = 0.5 * velocity + slope(i, y)
                y -= 0.01 * velocity
            moves.append(y - x)
            counts.append(sum(sum(0.5**j for j in range(steps - k)) for k in range(steps)))
        x += sum(counts) / 3 * sum(move / count for move, count in zip(moves, counts, strict=True)) / 3
        assert [federation.after(1)] == near([x])


def test_momentum_with_unequal_work_is_a_mean_of_directions() -> None:
    """K = (1, 5, 20): g = mean (x − y_i)/(η K_i) and x <- x − η τ g with τ = 26/3."""
    config = configured(learning_rate=0.01, local_steps=None, local_epochs=1)
    federation = Federation(FedAvgM(beta=0.3), config, epochs=(1, 5, 20))
    x = g = 0.0
    for _ in range(ROUNDS):
        directions = []
        for i, steps in enumerate((1, 5, 20)):
            y = x
            for _ in range(steps):
                y -= 0.01 * (0.3 * slope(i, y) + 0.7 * g)
            directions.append((x - y) / (0.01 * steps))
        g = sum(directions) / 3
        x -= 0.01 * 26 / 3 * g
        assert [federation.after(1), federation.server("momentum")] == near([x, -0.01 * g])


ONE = configured(local_steps=1)


@pytest.mark.parametrize(
    "rule",
    [LocalRule(), Scaffold(), Scaffold(option="I"), ScaffoldM(beta=1.0)],
    ids=lambda r: type(r).__name__,
)
def test_one_step_of_all_clients_is_gradient_descent_on_the_mean(rule: LocalRule) -> None:
    x, expected = 0.0, []
    for _ in range(ROUNDS):
        x -= ETA * sum(slope(i, x) for i in range(N)) / N
        expected.append(x)
    assert Federation(rule, ONE).path(ROUNDS) == near(expected)


def test_one_step_of_fedavg_m_is_descent_with_an_averaged_momentum() -> None:
    """g <- β G + (1 − β) g."""
    x = g = 0.0
    expected = []
    for _ in range(ROUNDS):
        g = BETA * sum(slope(i, x) for i in range(N)) / N + (1 - BETA) * g
        x -= ETA * g
        expected.append(x)
    assert Federation(FedAvgM(beta=BETA), ONE).path(ROUNDS) == near(expected)


@pytest.mark.parametrize("stacked", [True, False])
def test_scaffold_with_one_client_is_sgd(stacked: bool) -> None:
    """Its own control variate is everybody's."""
    x, expected = 0.0, []
    for _ in range(ROUNDS):
        for _ in range(K):
            x -= ETA * slope(1, x)
        expected.append(x)
    assert Federation(Scaffold(), clients=(1,), stacked=stacked).path(ROUNDS) == near(expected)
