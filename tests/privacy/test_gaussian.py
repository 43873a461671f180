"""The exact ε of Gaussian noise against an accountant, a second library's numbers, and its limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.privacy import prv_epsilon
from fedlab.privacy.gaussian import gaussian_delta, gaussian_epsilon


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (2.0, 5), (5.0, 40)])
def test_it_is_what_the_accountant_says_of_steps_without_sampling(sigma: float, steps: int) -> None:
    """`steps` steps of noise σ are one with μ = √steps / σ; PRV is an upper estimate of it."""
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5)
    assert exact <= prv_epsilon({(sigma, 1.0): steps}, 1e-5) <= exact * 1.01


@pytest.mark.parametrize(("steps", "known"), [(10, 3.341409), (3, 1.698035)])
def test_it_is_what_another_library_says(steps: int, known: float) -> None:
    """dp-accounting 0.5.1, PLD: `steps` Gaussian events with noise multiplier 4, δ = 1e-5."""
    assert gaussian_epsilon(math.sqrt(steps) / 4.0, 1e-5) == pytest.approx(known, abs=1e-5)


@given(mu=st.floats(0.01, 20.0), delta=st.floats(1e-9, 0.1))
def test_delta_at_epsilon_is_delta(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    if epsilon > 1e-6:
        assert gaussian_delta(mu, epsilon - 1e-6) > delta


def test_limits() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e-7, 1e-5) == 0.0  # δ alone covers it
    assert gaussian_delta(1.0, 50.0) == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize(("mu", "delta"), [(1.0, 0.0), (1.0, 1.0), (-1.0, 1e-5), (math.nan, 1e-5)])
def test_what_is_out_of_range_is_named(mu: float, delta: float) -> None:
    with pytest.raises(UsageError, match=r"delta|mu"):
        gaussian_epsilon(mu, delta)
