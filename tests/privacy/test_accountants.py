"""ε against known values, a second library's limits, and monotonicity."""

import json
import math

import pytest
from fedlab_defenses.privacy.dp_sgd import DPSGD
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger, epsilon_of, noise_multiplier_for, prv_epsilon, rdp_epsilon


def test_known_values() -> None:
    """MNIST's usual setting; RDP as dp-accounting 0.6 and Opacus 1.6 both give it, PRV as Opacus."""
    steps = {(1.1, 256 / 60000): 14062}
    assert rdp_epsilon(steps, 1e-5) == pytest.approx(2.59656, abs=1e-4)
    assert prv_epsilon(steps, 1e-5) == pytest.approx(2.39174, abs=1e-3)


def analytic_gaussian_delta(epsilon: float, sigma: float) -> float:
    """δ(ε) of one Gaussian step of sensitivity 1: Balle and Wang, ICML 2018, Theorem 8."""

    def phi(t: float) -> float:
        return 0.5 * math.erfc(-t / math.sqrt(2))

    return phi(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * phi(
        -1 / (2 * sigma) - epsilon * sigma
    )


def test_one_full_step_is_the_analytic_gaussian() -> None:
    epsilon = prv_epsilon({(1.0, 1.0): 1}, 1e-5)
    assert analytic_gaussian_delta(epsilon, 1.0) == pytest.approx(1e-5, rel=0.05)
    assert epsilon < rdp_epsilon({(1.0, 1.0): 1}, 1e-5)


def test_limits() -> None:
    assert prv_epsilon({}, 1e-5) == 0.0
    assert prv_epsilon({(1.0, 0.1): 0}, 1e-5) == 0.0
    assert prv_epsilon({(0.0, 0.1): 1}, 1e-5) == math.inf
    assert prv_epsilon({(200.0, 0.01): 10}, 1e-5) < 0.01


@settings(max_examples=15)
@given(sigma=st.floats(0.7, 4.0), q=st.floats(0.001, 0.3), steps=st.integers(1, 300))
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(sigma: float, q: float, steps: int) -> None:
    base = rdp_epsilon({(sigma, q): steps}, 1e-5)
    assert rdp_epsilon({(sigma, q): steps + 50}, 1e-5) >= base
    assert rdp_epsilon({(sigma, min(1.0, 2 * q)): steps}, 1e-5) >= base
    assert rdp_epsilon({(2 * sigma, q): steps}, 1e-5) <= base
    assert rdp_epsilon({(sigma, q): steps}, 1e-6) >= base


def test_composition_does_not_care_how_steps_are_booked() -> None:
    ledger = Ledger([Event(3, r, 1.0, 0.02, 5) for r in range(40)] + [Event(4, 1, 1.0, 0.02, 1)])
    assert ledger.clients() == [3, 4]
    assert prv_epsilon(ledger.steps()[3], 1e-5) == prv_epsilon({(1.0, 0.02): 200}, 1e-5)


def test_the_noise_for_a_target_meets_it_closely() -> None:
    sigma = noise_multiplier_for(2.0, 1e-5, 0.02, 400)
    spent = prv_epsilon({(sigma, 0.02): 400}, 1e-5)
    assert spent <= 2.0
    assert prv_epsilon({(0.99 * sigma, 0.02): 400}, 1e-5) > 2.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_delta_must_be_a_probability(delta: float) -> None:
    with pytest.raises(UsageError, match="delta must lie in"):
        prv_epsilon({(1.0, 0.1): 1}, delta)


def test_a_target_must_be_positive() -> None:
    with pytest.raises(UsageError, match="target epsilon must be > 0"):
        noise_multiplier_for(0.0, 1e-5, 0.1, 10)


@pytest.mark.parametrize("steps", [{(0.3, 1.0): 400}, {(0.01, 0.01): 5}])
def test_where_prv_does_not_reach_renyi_answers_and_is_named(steps: dict[tuple[float, float], int]) -> None:
    spent = epsilon_of(steps, 1e-5)
    assert spent.accountant == "RDP" and 50 < spent.epsilon < math.inf


def test_epsilon_is_never_negative() -> None:
    assert prv_epsilon({(50.0, 0.001): 1}, 0.5) == 0.0
    assert epsilon_of({(1.0, 0.02): 100}, 1e-5).accountant == "PRV"


def test_a_guarantee_without_a_finite_epsilon_is_valid_json() -> None:
    guarantee = DPSGD(noise_multiplier=0.0).guarantee(Ledger([Event(0, 1, 0.0, 0.1, 1)]))
    assert guarantee is not None
    text = json.dumps(guarantee.to_dict(), allow_nan=False)
    assert json.loads(text)["per_client"] == {"0": None}


def test_epsilon_is_rounded_up_where_processes_differ() -> None:
    steps = {(1.0, 0.05): 30}
    exact, told = prv_epsilon(steps, 1e-5), epsilon_of(steps, 1e-5).epsilon
    assert exact <= told < exact + 1e-9 and told == round(told, 9)
