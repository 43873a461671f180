"""Lower bounds on ε: closed forms, enumeration of tiny audits, and coverage of mechanisms whose ε is known.

Simulations have fixed seeds; the chance that a right implementation would fail is said with each.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedlab.errors import UsageError
from fedlab.privacy.gaussian import gaussian_epsilon
from fedlab.privacy.one_run import (
    clopper_pearson,
    epsilon_from_rates,
    epsilon_from_trials,
    epsilon_lower_bound,
    one_run,
    p_value,
)


def of_the_paper(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The p-value as Appendix D of arXiv 2305.08846 computes it, step by step."""
    q = 1 / (1 + math.exp(-epsilon))
    beta, alpha, total = binom.sf(v - 1, r, q), 0.0, 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return min(1.0, beta + alpha * delta * 2 * m)


@pytest.mark.parametrize("right", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.01])
def test_the_p_value_is_that_of_the_paper_s_own_program(right: int, delta: float) -> None:
    for epsilon in (0.0, 0.3, 2.0, 9.0):
        assert p_value(50, 20, right, epsilon, delta) == pytest.approx(
            of_the_paper(50, 20, right, epsilon, delta), abs=1e-12
        )


def test_all_right_has_a_closed_form() -> None:
    """δ = 0: P[X >= r] = p^r with p = e^ε / (1 + e^ε), so ε = ln(p / (1 − p)) at p = 0.05^(1/r)."""
    for r in (1, 10, 100):
        p = 0.05 ** (1 / r)
        exact = math.log(p / (1 - p)) if p > 0.5 else 0.0
        assert epsilon_lower_bound(r, r, r, 0.0) == pytest.approx(exact, abs=3e-6)
        assert epsilon_lower_bound(r, r, r, 0.0) <= exact


def test_every_outcome_of_randomised_response_with_three_canaries() -> None:
    """2³ coins times 2³ answers, ε = 1.2, and guesses about the first two: P[V >= v] is the p-value."""
    epsilon, r = 1.2, 2
    honest = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [0.0] * (r + 1)
    for coins in itertools.product((0, 1), repeat=3):
        for said in itertools.product((0, 1), repeat=3):
            weight = math.prod(honest if c == s else 1 - honest for c, s in zip(coins, said, strict=True)) / 8
            chance[sum(c == s for c, s in zip(coins[:r], said[:r], strict=True))] += weight
    for v in range(r + 1):
        assert p_value(3, r, v, epsilon, 0.0) == pytest.approx(sum(chance[v:]))


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("m", [1, 3, 6])
def test_what_happens_with_probability_delta_stays_below_the_p_value(m: int, delta: float) -> None:
    """Two (ε, δ)-private ways to tell coins: each of them openly with probability δ, or all at once."""
    for epsilon in (0.0, 0.5, 2.0):
        honest = math.exp(epsilon) / (1 + math.exp(epsilon))
        for v in range(m + 1):
            each = binom.sf(v - 1, m, delta + (1 - delta) * honest)
            together = delta + (1 - delta) * binom.sf(v - 1, m, honest)
            assert max(each, together) <= p_value(m, m, v, epsilon, delta) + 1e-12


@given(
    st.integers(1, 60).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m))),
    st.floats(0, 1),
    st.sampled_from([0.0, 1e-6, 1e-3]),
)
def test_more_right_guesses_prove_more_and_a_larger_delta_less(
    sizes: tuple[int, int], share: float, delta: float
) -> None:
    m, r = sizes
    v = int(share * r)
    found = epsilon_lower_bound(m, r, v, delta)
    assert found <= epsilon_lower_bound(m, r, min(v + 1, r), delta) + 1e-6
    assert epsilon_lower_bound(m, r, v, min(1.0, 10 * delta + 1e-9)) <= found + 1e-6
    curve = [p_value(m, r, v, epsilon, delta) for epsilon in np.linspace(0, 8, 40)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))


def test_coverage_of_randomised_response() -> None:
    """ε = 1 exactly: the bound exceeds it in 5 % of 400 audits at most; 40 would have probability 1e-5."""
    honest, generator, found = math.e / (1 + math.e), np.random.default_rng(1), []
    for _ in range(400):
        coins = generator.random(200) < 0.5
        said = np.where(generator.random(200) < honest, coins, ~coins)
        found.append(one_run(said, coins, 200, delta=0.0, epsilon=1.0).epsilon_hat)
    assert sum(bound > 1.0 for bound in found) < 40
    assert 0.6 < float(np.median(found)) < 1.0


def test_coverage_of_gaussian_noise() -> None:
    """One Gaussian release of 500 canaries in coordinates of their own, (4.4, 1e-5)-private each."""
    epsilon, generator = gaussian_epsilon(1.0, 1e-5), np.random.default_rng(2)
    found = []
    for _ in range(200):
        coins = generator.random(500) < 0.5
        found.append(one_run(coins + generator.standard_normal(500), coins, 50, delta=1e-5, epsilon=epsilon))
    assert not any(one.alarm for one in found)
    assert np.median([one.epsilon_hat for one in found]) > 0.2 * epsilon


def test_noise_that_is_not_there_raises_the_alarm() -> None:
    coins = np.random.default_rng(3).random(500) < 0.5
    found = one_run(coins.astype(float), coins, 200, delta=1e-5, epsilon=2.0)
    assert found.right == 200 and found.alarm
    assert found.epsilon_hat == found.ceiling == pytest.approx(4.0, abs=0.3)


def test_guesses_are_the_extremes_of_the_scores() -> None:
    """Three guesses: the two highest are in, the lowest is out; of the others nothing is said."""
    found = one_run([5.0, 1.0, 4.0, 3.0, 2.0], [True, True, False, True, False], 3, delta=0.0)
    assert (found.canaries, found.guesses, found.right) == (5, 3, 1)
    assert found.epsilon_hat == 0.0 and not found.alarm


def test_bounds_on_a_rate_are_exact() -> None:
    """No hit of 10: the upper bound p has (1 − p)^10 = 0.025."""
    assert clopper_pearson(0, 10, 0.95) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10, 0.95) == pytest.approx((0.025**0.1, 1.0))
    low, high = clopper_pearson(3, 10, 0.95)
    assert binom.sf(2, 10, low) == pytest.approx(0.025) and binom.cdf(3, 10, high) == pytest.approx(0.025)


def test_epsilon_of_rates_by_hand() -> None:
    low, high = 0.025**0.01, 1 - 0.025**0.01
    assert epsilon_from_rates(100, 100, 0, 100, delta=0.0) == pytest.approx(math.log(low / high))
    assert epsilon_from_rates(100, 100, 0, 100, delta=0.5) == pytest.approx(math.log((low - 0.5) / high))
    assert epsilon_from_rates(50, 100, 50, 100, delta=0.0) == 0.0
    assert epsilon_from_rates(0, 100, 0, 100, delta=0.1) == 0.0


def test_trials_find_either_side() -> None:
    """Half of the trials inside cannot be outside, or half of those outside cannot be inside: ε is infinite,
    and 50 hits among 100 counted trials, with a mistake or two, prove ln(0.4 / 0.07) = 1.7 of it."""
    generator = np.random.default_rng(4)
    plain = generator.random(200)
    moved = np.where(generator.random(200) < 0.5, 3.0, 0.0) + generator.random(200)
    assert epsilon_from_trials(moved, plain, delta=0.0) > 1.2
    assert epsilon_from_trials(plain, 1.0 - moved, delta=0.0) > 1.2
    assert epsilon_from_trials(plain, generator.random(200), delta=0.0) < 0.5


def test_coverage_of_trials() -> None:
    """Laplace noise of scale 1 on 0 or 1 has ε = 1: exceeded in 5 % of 300 at most; 32 have chance 1e-4."""
    generator = np.random.default_rng(5)
    found = [
        epsilon_from_trials(1 + generator.laplace(size=100), generator.laplace(size=100), delta=0.0)
        for _ in range(300)
    ]
    assert sum(bound > 1.0 for bound in found) < 32


@pytest.mark.parametrize(
    "call",
    [
        lambda: p_value(10, 11, 5, 1.0, 0.0),
        lambda: p_value(10, 5, 6, 1.0, 0.0),
        lambda: p_value(10, 5, 5, -1.0, 0.0),
        lambda: p_value(10, 5, 5, 1.0, math.nan),
        lambda: epsilon_lower_bound(10, 5, 5, 0.0, 1.0),
        lambda: one_run([1.0, math.nan], [True, False], 1, delta=0.0),
        lambda: one_run([1.0, 2.0], [True], 1, delta=0.0),
        lambda: one_run([1.0, 2.0], [True, False], 3, delta=0.0),
        lambda: epsilon_from_rates(3, 2, 0, 2, delta=0.0),
        lambda: epsilon_from_trials([1.0], [1.0, 2.0], delta=0.0),
    ],
)
def test_what_is_out_of_range_is_named(call: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        call()  # type: ignore[operator]
