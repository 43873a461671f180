"""Reconstruction robustness against closed forms, and against the privacy curve of a second library.

Where a draw could fail a test, the seed is fixed and the chance of it is said.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedlab.errors import UsageError
from fedlab.privacy import prv_epsilon
from fedlab.privacy.gaussian import gaussian_delta
from fedlab.privacy.reconstruction import privacy_losses, rero_bound, rero_bounds, rero_epsilon, rero_gaussian

KAPPAS = (1e-3, 1e-2, 0.1, 0.5)


def of_the_curve(steps: dict[tuple[float, float], int], kappa: float) -> float:
    """min over ε of κ e^ε + δ(ε), with dp-accounting's δ of removing a record: the dual of sup P(E)."""
    curve = None
    for (sigma, q), count in steps.items():
        one = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, sampling_prob=q, value_discretization_interval=1e-3
        ).self_compose(count)
        curve = one if curve is None else curve.compose(one)
    return min(
        kappa * math.exp(e) + curve._pmf_remove.get_delta_for_epsilon(e) for e in np.linspace(0, 14, 300)
    )


@pytest.mark.parametrize(("sigma", "count"), [(1.0, 1), (2.0, 4), (5.0, 100)])
def test_without_sampling_it_is_the_closed_form(sigma: float, count: int) -> None:
    """Error probability: 4 standard errors of a mean of 20,000 numbers in [0, 1], 1e-4 for each."""
    found = rero_bounds({(sigma, 1.0): count}, KAPPAS, samples=40_000, generator=np.random.default_rng(1))
    for kappa, one in zip(KAPPAS, found, strict=True):
        exact = rero_gaussian(kappa, math.sqrt(count) / sigma)
        assert abs(one.gamma - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)
        assert exact < one.upper


def test_one_sampled_step_by_hand() -> None:
    """T = 1: P/Q grows with w, so E = {w > t}: γ = (1 − q) κ + q P[N(1, σ²) > t], Q[w > t] = κ."""
    sigma, q, kappa = 0.8, 0.3, 0.05
    threshold = norm.isf(kappa, scale=sigma)
    exact = (1 - q) * kappa + q * norm.sf(threshold, loc=1.0, scale=sigma)
    found = rero_bound({(sigma, q): 1}, kappa, samples=100_000, generator=np.random.default_rng(2))
    assert found.gamma == pytest.approx(exact, abs=4 * math.sqrt(exact / 50_000))
    assert exact < found.upper < exact + 0.01


@pytest.mark.parametrize("steps", [{(1.0, 0.1): 50}, {(0.7, 0.2): 10, (1.5, 0.05): 20}])
def test_it_is_the_dual_of_another_library_s_privacy_curve(steps: dict[tuple[float, float], int]) -> None:
    found = rero_bounds(steps, (0.01, 0.1), samples=40_000, generator=np.random.default_rng(3))
    for kappa, one in zip((0.01, 0.1), found, strict=True):
        exact = of_the_curve(steps, kappa)
        assert one.gamma == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000) + 1e-3)
        assert exact <= one.upper


@pytest.mark.parametrize("kappa", KAPPAS)
def test_no_more_than_epsilon_and_delta_allow(kappa: float) -> None:
    steps = {(1.1, 0.2): 30}
    found = rero_bound(steps, kappa, samples=40_000, generator=np.random.default_rng(4))
    for delta in (1e-6, 1e-4, 1e-2):
        assert found.gamma <= rero_epsilon(kappa, prv_epsilon(steps, delta), delta)


def test_it_grows_with_steps_with_the_rate_with_the_prior_and_falls_with_the_noise() -> None:
    """Steps that are far apart, so that no draw of 20,000 hides the order."""

    def gamma(sigma: float, q: float, count: int, kappa: float = 0.05) -> float:
        return rero_bound(
            {(sigma, q): count}, kappa, samples=20_000, generator=np.random.default_rng(5)
        ).gamma

    assert gamma(1.0, 0.2, 5) < gamma(1.0, 0.2, 20) < gamma(1.0, 0.2, 80)
    assert gamma(1.0, 0.1, 20) < gamma(1.0, 0.3, 20) < gamma(1.0, 1.0, 20)
    assert gamma(3.0, 0.2, 20) < gamma(1.5, 0.2, 20) < gamma(0.7, 0.2, 20)
    assert gamma(1.0, 0.2, 20, 0.01) < gamma(1.0, 0.2, 20, 0.1) < gamma(1.0, 0.2, 20, 0.5)


def test_limits() -> None:
    generator = np.random.default_rng(6)
    assert rero_bound({}, 0.1, generator=generator).gamma == pytest.approx(0.1)
    assert rero_bound({(1.0, 0.0): 9}, 0.1, generator=generator).gamma == pytest.approx(0.1)
    assert rero_bound({(0.0, 0.1): 1}, 0.1, generator=generator) == (1.0, 1.0)
    assert rero_bound({(0.01, 1.0): 1}, 0.001, generator=generator).gamma == pytest.approx(1.0)
    assert rero_bound({(1e-3, 0.5): 40}, 0.001, generator=generator).gamma == pytest.approx(1.0)
    assert rero_bound({(1e4, 0.5): 3}, 0.1, generator=generator).gamma == pytest.approx(0.1, abs=1e-3)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """200 repetitions at 90 %: fewer than 160 right ones would have probability 1e-5 if it were exact."""
    exact = rero_gaussian(0.1, 1.0)
    right = sum(
        rero_bound(
            {(1.0, 1.0): 1}, 0.1, samples=400, generator=np.random.default_rng(seed), confidence=0.9
        ).upper
        >= exact
        for seed in range(200)
    )
    assert right >= 160


def test_losses_are_those_of_the_two_distributions() -> None:
    """E_P[Q/P] = 1, and P[loss > ε] − e^ε Q[loss > ε] = δ(ε) of one Gaussian; 5 standard errors."""
    losses = privacy_losses({(1.0, 0.3): 3, (2.0, 1.0): 1}, 200_000, np.random.default_rng(7))
    weights = np.exp(-losses)
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(len(losses))
    plain = privacy_losses({(1.0, 1.0): 1}, 200_000, np.random.default_rng(8))
    assert np.maximum(0, 1 - np.exp(1 - plain)).mean() == pytest.approx(gaussian_delta(1.0, 1.0), abs=5e-3)


@given(kappa=st.floats(1e-6, 0.999), mu=st.floats(0.0, 20.0))
def test_the_gaussian_form_lies_between_the_prior_and_certainty(kappa: float, mu: float) -> None:
    assert kappa * (1 - 1e-9) <= rero_gaussian(kappa, mu) <= 1.0
    assert rero_gaussian(kappa, mu) == pytest.approx(1 - norm.cdf(norm.ppf(1 - kappa) - mu), abs=1e-9)


def test_epsilon_s_form_is_capped() -> None:
    assert rero_epsilon(0.01, 1.0, 1e-5) == pytest.approx(0.01 * math.e + 1e-5)
    assert rero_epsilon(0.5, 1.0, 0.0) == rero_epsilon(0.01, math.inf, 0.0) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda g: rero_bound({(1.0, 0.1): 1}, 0.0, generator=g),
        lambda g: rero_bound({(1.0, 0.1): 1}, math.nan, generator=g),
        lambda g: rero_bound({(-1.0, 0.1): 1}, 0.1, generator=g),
        lambda g: rero_bound({(1.0, 1.1): 1}, 0.1, generator=g),
        lambda g: rero_bound({(1.0, 0.1): 1}, 0.1, generator=g, samples=3),
        lambda g: rero_bound({(1.0, 0.1): 1}, 0.1, generator=g, confidence=1.0),
        lambda g: rero_gaussian(0.1, -1.0),
        lambda g: rero_epsilon(0.1, math.nan, 0.0),
        lambda g: rero_epsilon(0.1, 1.0, 1.5),
    ],
)
def test_what_is_out_of_range_is_named(call: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        call(np.random.default_rng(0))  # type: ignore[operator]
