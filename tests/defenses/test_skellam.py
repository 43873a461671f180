"""Skellam noise and what it proves, against exact divergences, Gaussian limits and dp-accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from fedlab_defenses.privacy import skellam
from scipy import stats

from fedlab.errors import UsageError
from fedlab.privacy import rdp_epsilon


def draws(variance: float, count: int, seed: int = 1) -> np.ndarray:
    return skellam.skellam((count,), variance, torch.Generator().manual_seed(seed)).numpy()


@pytest.mark.parametrize("variance", [0.5, 7.0, 4e5])
def test_draws_are_skellam(variance: float) -> None:
    """100,000 integers: χ² of about 20 cells against scipy's distribution; mean and variance within 5
    standard errors (of the variance: sqrt(2 / n + 1 / (n variance)), as the kurtosis is 3 + 1 / variance)."""
    found = draws(variance, 100_000)
    assert np.array_equal(found, np.rint(found))
    exact = stats.skellam(variance / 2, variance / 2)
    edges = np.unique(np.round(np.linspace(-2.5, 2.5, 20) * math.sqrt(variance))) + 0.5
    if variance < 1e4:
        below = exact.cdf(np.floor(edges))
    else:  # scipy's goes wrong there; the normal distribution is as good as exact
        below = stats.norm.cdf(edges / math.sqrt(variance))
    chances = np.diff(np.concatenate([[0.0], below, [1.0]]))
    counts = np.histogram(found, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    assert stats.chisquare(counts, chances * len(found)).pvalue > 1e-4
    assert abs(found.mean()) < 5 * math.sqrt(variance / len(found))
    relative = math.sqrt(2 / len(found) + 1 / (len(found) * variance))
    assert abs(found.var() / variance - 1) < 5 * relative


def test_sums_are_skellam_of_the_sum_of_variances() -> None:
    """Of three clients' noise: fourth moment 3 μ² + μ with μ = 1.5, which a normal distribution lacks."""
    total = sum(draws(0.5, 200_000, seed) for seed in range(3))
    assert abs(total.var() / 1.5 - 1) < 0.02
    assert abs((total**4).mean() / (3 * 1.5**2 + 1.5) - 1) < 0.05


def test_draws_repeat_from_a_generator_and_never_from_the_system() -> None:
    assert np.array_equal(draws(9.0, 100), draws(9.0, 100))
    one, two = (skellam.skellam((200,), 9.0, None, secure=True) for _ in range(2))
    assert not torch.equal(one, two) and abs(float(one.var()) / 9.0 - 1) < 0.6
    assert float(skellam.skellam((50,), 0.0, None, secure=True).abs().max()) == 0.0
    with pytest.raises(UsageError, match="larger step"):
        skellam.skellam((1,), 1e13, None, secure=True)


def test_no_draw_lies_beyond_the_reach() -> None:
    assert np.abs(draws(100.0, 200_000)).max() <= skellam.reach(100.0) == 180


@pytest.mark.parametrize(("variance", "shift"), [(0.5, 1), (4.0, 1), (4.0, 3), (50.0, 5)])
@pytest.mark.parametrize("order", [2, 5, 20])
def test_the_bound_holds_and_is_close(variance: float, shift: int, order: int) -> None:
    """The exact divergence of one integer, shifted: log Σ p(k)^α q(k)^(1 - α) / (α - 1). Where the noise is
    large (50) the bound is within 7 % of it."""
    k = np.arange(-2000, 2001)
    log_p = stats.skellam.logpmf(k, variance / 2, variance / 2)
    log_q = stats.skellam.logpmf(k - shift, variance / 2, variance / 2)
    held = np.isfinite(log_p) & np.isfinite(log_q)
    exact = np.logaddexp.reduce(order * log_p[held] + (1 - order) * log_q[held]) / (order - 1)
    bound = skellam.rdp(order, variance, abs(shift), abs(shift))
    assert exact <= bound * (1 + 1e-9)
    if variance == 50.0 and order <= 5:
        assert bound <= 1.07 * exact


def test_the_closed_form_by_hand() -> None:
    """α = 3, μ = 10, Δ₁ = 4, Δ₂ = 2: 3·4/20 + min((5·4 + 24)/400, 12/20) = 0.6 + 0.11."""
    assert skellam.rdp(3, 10.0, 4.0, 2.0) == pytest.approx(0.71)
    assert skellam.rdp(3, 0.1, 4.0, 2.0) == pytest.approx(3 * 4 / 0.2 + 12 / 0.2)  # the other one is smaller
    assert skellam.rdp(3, 0.0, 4.0, 2.0) == math.inf


@pytest.mark.parametrize(("sigma", "rounds"), [(1.0, 1), (2.0, 30), (8.0, 100)])
def test_fine_noise_costs_what_gaussian_noise_does(sigma: float, rounds: int) -> None:
    """4096 integers to the norm: within 1 % above the Gaussian Rényi ε (Opacus, the same orders)."""
    l2 = 4096.0
    spent = skellam.epsilon({(sigma * l2) ** 2: rounds}, l2**2, l2, 1e-5)
    gaussian = rdp_epsilon({(sigma, 1.0): rounds}, 1e-5, orders=skellam.ORDERS)
    assert gaussian * (1 - 1e-6) <= spent <= 1.01 * gaussian


def test_coarse_noise_costs_more() -> None:
    """4 integers to the norm, and at most 4 of them one apart (Δ₁ = Δ₂² = 16)."""
    coarse = skellam.epsilon({16.0: 1}, 16.0, 4.0, 1e-5)
    fine = skellam.epsilon({4096.0**2: 1}, 4096.0**2, 4096.0, 1e-5)
    assert coarse > 1.04 * fine


def test_it_converts_as_dp_accounting_does() -> None:
    releases, l2 = {(3.0 * 64) ** 2: 10, (2.0 * 64) ** 2: 5}, 64.0
    bounds = [
        sum(count * skellam.rdp(order, variance, l2**2, l2) for variance, count in releases.items())
        for order in skellam.ORDERS
    ]
    other, _ = compute_epsilon(skellam.ORDERS, bounds, 1e-6)
    assert skellam.epsilon(releases, l2**2, l2, 1e-6) == pytest.approx(other, rel=1e-12)
