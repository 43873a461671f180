"""Where each algorithm comes to rest on three quadratics, in closed form, to nine digits.

A client that takes K full steps of SGD at rate η goes W_i = 1 − (1 − η a_i)ᴷ of its way to b_i, so that
averaging rests where Σ W_i (b_i − x) = 0. All through Grid, Flower messages and the composed strategy.
"""

from __future__ import annotations

import pytest

from fedlab.clients import LocalRule
from fedlab.clients.rules.feddyn import FedDyn
from fedlab.clients.rules.fednova import FedNova
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.mime import MimeLite
from fedlab.clients.rules.momentum import FedAvgM, FedAvgMVR
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.rules.scaffold_momentum import ScaffoldM, ScaffoldMVR
from tests.clients.quadratics import CENTRES, CURVATURES, OPTIMUM, Federation, configured, fixed, reach


def close(value: float) -> object:
    return pytest.approx(value, rel=0.0, abs=1e-9)


def test_the_closed_forms_are_those_of_the_reference() -> None:
    """Worked out elsewhere, to ten digits."""
    assert fixed(reach(0.1)) == pytest.approx(0.1563463732, abs=1e-10)
    assert fixed(reach(0.05)) == pytest.approx(0.3101962130, abs=1e-10)
    assert fixed(reach(0.01)) == pytest.approx(0.4271612786, abs=1e-10)
    assert fixed(reach(0.001)) == pytest.approx(0.4518467217, abs=1e-10)
    assert fixed(CURVATURES) == pytest.approx(OPTIMUM, abs=1e-15)


def test_fedavg_rests_beside_the_optimum() -> None:
    assert Federation(LocalRule()).after(35) == close(0.15634637321304276)


@pytest.mark.parametrize(("mu", "expected", "rounds"), [(1.0, 0.1686771061, 50), (10.0, 0.3412766169, 180)])
def test_fedprox_weighs_clients_by_how_far_the_held_steps_go(mu: float, expected: float, rounds: int) -> None:
    """w_i = (1 − (1 − η(a_i + μ))ᴷ) a_i/(a_i + μ): the clients' optimum lies at (a b + μ x)/(a + μ)."""
    shares = [(1.0 - (1.0 - 0.1 * (a + mu)) ** 5) * a / (a + mu) for a in CURVATURES]
    assert fixed(shares) == pytest.approx(expected, abs=1e-10)
    assert Federation(FedProx(mu=mu)).after(rounds) == close(fixed(shares))


@pytest.mark.parametrize(("beta", "rounds"), [(0.5, 55), (0.1, 330)])
def test_fedavg_m_rests_where_fedavg_does_at_the_rate_times_beta(beta: float, rounds: int) -> None:
    federation = Federation(FedAvgM(beta=beta))
    assert federation.after(rounds) == close(fixed(reach(0.1 * beta)))
    assert federation.server("momentum") == close(0.0)


def test_fedavg_m_stays_at_its_fixed_point() -> None:
    """β = 0.01 would take 2,500 rounds to get there."""
    point = fixed(reach(0.001))
    assert Federation(FedAvgM(beta=0.01), start=point).path(3) == [pytest.approx(point, abs=1e-14)] * 3


@pytest.mark.parametrize(("beta", "rounds"), [(0.5, 75), (0.1, 380)])
def test_fedavg_m_vr_rests_where_fedavg_does_for_every_beta(beta: float, rounds: int) -> None:
    assert Federation(FedAvgMVR(beta=beta)).after(rounds) == close(fixed(reach(0.1)))


@pytest.mark.parametrize(
    ("rule", "cohort", "rounds"),
    [
        (Scaffold(option="I"), 3, 35),
        (Scaffold(), 3, 45),
        (Scaffold(), 1, 110),
        (ScaffoldM(beta=0.5), 3, 75),
        (ScaffoldM(beta=0.5), 1, 210),
        (ScaffoldM(beta=0.1), 1, 400),
        (ScaffoldMVR(beta=0.5), 3, 50),
        (ScaffoldMVR(beta=0.5), 1, 150),
        (ScaffoldMVR(beta=0.1), 1, 270),
    ],
)
def test_control_variates_lead_to_the_optimum(rule: LocalRule, cohort: int, rounds: int) -> None:
    """Also when a round asks one client of three. The control variates rest at the gradients there."""
    federation = Federation(rule, cohort=cohort)
    assert federation.after(rounds) == close(OPTIMUM)
    slopes = [a * (OPTIMUM - b) for a, b in zip(CURVATURES, CENTRES, strict=True)]
    assert federation.memory("control") == pytest.approx(slopes, abs=1e-8)
    assert federation.server("control") == pytest.approx(0.0, abs=1e-8)


UNEQUAL = configured(learning_rate=0.01, local_steps=None, local_epochs=5)
WORK = (1, 5, 20)
"""Epochs of one full batch, hence steps, of the three clients."""


def test_unequal_work_pulls_fedavg_to_the_busiest_client() -> None:
    ways = [1.0 - (1.0 - 0.01 * a) ** k for a, k in zip(CURVATURES, WORK, strict=True)]
    assert fixed(ways) == pytest.approx(-0.3501219551, abs=1e-10)
    assert Federation(LocalRule(), UNEQUAL, epochs=WORK).after(250) == close(fixed(ways))


@pytest.mark.parametrize(("mu", "rounds"), [(0.0, 160), (1.0, 190)])
def test_fednova_weighs_clients_as_if_they_had_done_equal_work(mu: float, rounds: int) -> None:
    """Σ w b/Σ w with w_i = W_i/‖a_i‖₁; of a held client, W_i = (1 − (1 − η(a + μ))ᴷ) a/(a + μ)."""
    shares = []
    for a, k in zip(CURVATURES, WORK, strict=True):
        way = (1.0 - (1.0 - 0.01 * (a + mu)) ** k) * a / (a + mu)
        shares.append(way / sum((1.0 - 0.01 * mu) ** step for step in range(k)))
    if not mu:
        assert fixed(shares) == pytest.approx(0.4375096299, abs=1e-10)
    assert Federation(FedNova(mu=mu), UNEQUAL, epochs=WORK).after(rounds) == close(fixed(shares))


def test_fednova_counts_clients_by_their_records_and_not_by_their_steps() -> None:
    """1, 5 and 20 copies in batches of one: p_i = n_i/26 and K_i = n_i, so that p_i W_i/K_i ~ W_i."""
    config = configured(learning_rate=0.01, local_steps=None, local_epochs=1, batch_size=1)
    ways = [1.0 - (1.0 - 0.01 * a) ** k for a, k in zip(CURVATURES, WORK, strict=True)]
    assert Federation(FedNova(), config, copies=WORK).after(190) == close(fixed(ways))


@pytest.mark.parametrize(("cohort", "rounds"), [(3, 45), (2, 90)])
def test_feddyn_with_exact_local_solutions_finds_the_optimum(cohort: int, rounds: int) -> None:
    """60 steps of 0.3 leave (1 − 0.3 (a + α))⁶⁰ < 1e-15 of the way."""
    exact = configured(local_steps=60, learning_rate=0.3)
    federation = Federation(FedDyn(alpha=1.0), exact, cohort=cohort)
    assert federation.after(rounds) == close(OPTIMUM)


def test_mime_lite_rests_where_its_frozen_momentum_lets_it() -> None:
    """Clients approach b_i − κ m/a_i, κ = β/(1 − β), going W_i(η(1 − β)) of their way; m = ā x − mean(ab).

    Σ W_i (b_i − κ m/a_i − x) = 0 gives x = (Σ W b + κ' mean(ab))/(Σ W + κ' ā) with κ' = κ Σ W_i/a_i.
    """
    ways = reach(0.05)
    pull = sum(w / a for w, a in zip(ways, CURVATURES, strict=True))  # β = 0.5: κ = 1
    top = sum(w * b for w, b in zip(ways, CENTRES, strict=True)) + pull * 2.5 / 3.0
    point = top / (sum(ways) + pull * 5.5 / 3.0)
    federation = Federation(MimeLite(beta=0.5))
    assert federation.after(80) == close(point)
    assert federation.server("momentum") == close((5.5 * point - 2.5) / 3.0)
