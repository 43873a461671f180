"""The mechanism check: it lets a right mechanism pass, and sees each fault by the test that is about it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlab.errors import UsageError
from fedlab.privacy.mechanism import Check, Release, Sampling, check
from fedlab.privacy.sampling import batches, of_squares

Floats = NDArray[np.float64]
SIGMA, CLIP, SIZE, D = 1.3, 0.5, 5.0, 60
RECORDS, RATE = 40, 0.125


def clipped(vectors: Floats) -> Floats:
    vectors = np.nan_to_num(vectors, posinf=0.0, neginf=0.0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * np.minimum(1.0, CLIP / np.maximum(norms, 1e-300)))


def drawn(draw: int, seed: int = 0) -> Floats:
    return np.random.default_rng((seed, draw)).standard_normal(D)


def right(vectors: Floats, draw: int, seed: int = 0) -> Floats:
    return np.asarray((clipped(vectors).sum(0) + SIGMA * CLIP * drawn(draw, seed)) / SIZE)


def faults(make: Callable[[Floats, int], Floats], seed: int = 1, numbers: int = 20_000) -> set[str]:
    found = check(
        [Release(make, D, SIGMA, CLIP, SIZE)], generator=np.random.default_rng(seed), numbers=numbers
    )
    return {one.name for one in found if one.verdict == "failed"}


def poisson(seed: int) -> Callable[[int], list[NDArray[np.int64]]]:
    return lambda number: [
        np.flatnonzero(np.random.default_rng((seed, number, step)).random(RECORDS) < RATE)
        for step in range(3)
    ]


def test_a_right_mechanism_fails_no_more_often_than_said() -> None:
    """40 mechanisms at a level of 5 % in all: more than 8 false alarms would have probability 5e-4."""
    alarms = 0
    for seed in range(40):
        found = check(
            [Release(lambda v, draw, s=seed: right(v, draw, s), D, SIGMA, CLIP, SIZE)],  # type: ignore[misc]
            [Sampling(poisson(seed), RECORDS, RATE)],
            generator=np.random.default_rng(seed),
            level=0.05,
            numbers=1_500,
        )
        assert len(found) == 9 and all(one.p is not None and 0.0 <= one.p <= 1.0 for one in found)
        alarms += any(one.verdict == "failed" for one in found)
    assert alarms <= 8


@pytest.mark.parametrize("factor", [0.5, 0.96, 1.05])
def test_noise_of_another_size(factor: float) -> None:
    """20,000 numbers: the standard deviation is known to 0.5 %, so that 4 % are eight times that."""

    def make(vectors: Floats, draw: int) -> Floats:
        return np.asarray((clipped(vectors).sum(0) + factor * SIGMA * CLIP * drawn(draw)) / SIZE)

    assert "noise" in faults(make)


def test_noise_of_another_shape() -> None:
    """Laplace noise of the same variance."""

    def make(vectors: Floats, draw: int) -> Floats:
        noise = np.random.default_rng(draw).laplace(scale=math.sqrt(0.5), size=D)
        return np.asarray((clipped(vectors).sum(0) + SIGMA * CLIP * noise) / SIZE)

    assert "noise shape" in faults(make)


def test_noise_that_is_used_twice() -> None:
    def in_every_draw(vectors: Floats, draw: int) -> Floats:
        return right(vectors, 0)

    def in_every_coordinate(vectors: Floats, draw: int) -> Floats:
        return np.asarray((clipped(vectors).sum(0) + SIGMA * CLIP * drawn(draw)[0]) / SIZE)

    def in_the_next_draw_but_one(vectors: Floats, draw: int) -> Floats:
        return right(vectors, draw - draw // 2 % 2 * 2)

    assert "noise" in faults(in_every_draw)
    assert "noise used once" in faults(in_every_coordinate)
    assert "noise used once" in faults(in_the_next_draw_but_one)


def test_noise_that_goes_by_the_batch() -> None:
    """The noise of a mean over the realised batch."""

    def make(vectors: Floats, draw: int) -> Floats:
        size = max(1, len(vectors))
        return np.asarray(clipped(vectors).sum(0) / SIZE + SIGMA * CLIP * drawn(draw) / size)

    assert "noise" in faults(make)


def late(vectors: Floats, draw: int) -> Floats:
    mean = np.nan_to_num(vectors).mean(0, keepdims=True) if len(vectors) else np.zeros((1, D))
    return np.asarray(clipped(mean)[0] + SIGMA * CLIP * drawn(draw) / SIZE)


def unclipped(vectors: Floats, draw: int) -> Floats:
    return np.asarray((np.nan_to_num(vectors).sum(0) + SIGMA * CLIP * drawn(draw)) / SIZE)


def by_coordinate(vectors: Floats, draw: int) -> Floats:
    return np.asarray((np.clip(vectors, -CLIP, CLIP).sum(0) + SIGMA * CLIP * drawn(draw)) / SIZE)


def normalised(vectors: Floats, draw: int) -> Floats:
    """Divides by the norm without a limit: a zero vector becomes no number."""
    with np.errstate(invalid="ignore"):
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray((CLIP * units.sum(0) + SIGMA * CLIP * drawn(draw)) / SIZE)


@pytest.mark.parametrize("make", [late, unclipped, by_coordinate, normalised])
def test_one_record_that_reaches_too_far(make: Callable[[Floats, int], Floats]) -> None:
    assert "sensitivity" in faults(make, numbers=1_000)


@pytest.mark.parametrize("size", [lambda n: max(1, n), lambda n: SIZE - 1.0, lambda n: SIZE + 0.34])
def test_another_denominator(size: Callable[[int], float]) -> None:
    def make(vectors: Floats, draw: int) -> Floats:
        return np.asarray((clipped(vectors).sum(0) + SIGMA * CLIP * drawn(draw)) / size(len(vectors)))

    assert "denominator" in faults(make, numbers=1_000)


def sampling_faults(draw: Callable[[int], list[NDArray[np.int64]]], rate: float = RATE) -> set[str]:
    return {name for name, _, p, _ in batches(Sampling(draw, RECORDS, rate)) if p < 1e-4}


def test_batches_of_a_fixed_size() -> None:
    """Drawn anew they share what independent ones do; cut from an epoch they share nothing."""

    def anew(number: int) -> list[NDArray[np.int64]]:
        return [np.random.default_rng(number).choice(RECORDS, 5, replace=False)]

    def epoch(number: int) -> list[NDArray[np.int64]]:
        return list(np.random.default_rng(number).permutation(RECORDS).reshape(-1, 5))

    assert sampling_faults(anew) == {"batch sizes"}
    assert sampling_faults(epoch) == {"batch sizes", "records alike", "batches independent"}


def test_sampling_that_is_not_what_is_accounted() -> None:
    plain = poisson(1)

    def often(number: int) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(np.random.default_rng(number).random(RECORDS) < 1.2 * RATE)]

    def again(number: int) -> list[NDArray[np.int64]]:
        return [plain(number)[0]] * 2

    def some(number: int) -> list[NDArray[np.int64]]:
        rates = np.where(np.arange(RECORDS) < 5, 4 * RATE, RATE * 20 / 35)
        return [np.flatnonzero(np.random.default_rng(number).random(RECORDS) < rates)]

    assert "sampling rate" in sampling_faults(often)
    assert "batches independent" in sampling_faults(again)
    assert "records alike" in sampling_faults(some)
    assert not sampling_faults(plain)


def test_without_sampling_every_batch_is_everything() -> None:
    assert not sampling_faults(lambda number: [np.arange(RECORDS)], 1.0)
    assert sampling_faults(lambda number: [np.arange(RECORDS - number % 2)], 1.0) == {"batch sizes"}


def test_without_noise_the_rest_is_tested() -> None:
    release = Release(lambda v, draw: clipped(v).sum(0) / SIZE, D, 0.0, CLIP, SIZE)
    found = check([release], generator=np.random.default_rng(0))
    assert {one.name: one.verdict for one in found} == {"sensitivity": "passed", "denominator": "passed"}


def test_what_is_not_finite_is_null_in_json() -> None:
    found = Check("sensitivity", math.inf, 0.0, "failed", "words").to_dict()
    assert found["statistic"] is None and found["p"] == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: Release(right, D, SIGMA, 0.0, SIZE),
        lambda: Release(right, D, -1.0, CLIP, SIZE),
        lambda: Sampling(poisson(0), 0, RATE),
        lambda: Sampling(poisson(0), RECORDS, 1.5),
        lambda: check([], generator=np.random.default_rng(0), level=0.0),
    ],
)
def test_what_is_out_of_range_is_named(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        call()


def test_much_noise_in_float32_is_no_other_denominator() -> None:
    """Sums of one short vector of 40,000 numbers with noise of σ = 50: rounding alone is 1 % of them."""
    size, sigma = 40_000, 50.0

    def make(vectors: Floats, draw: int, count: float = 1.0) -> Floats:
        noise = np.random.default_rng(draw).standard_normal(size).astype(np.float32)
        total = np.asarray(clipped(vectors).sum(0), dtype=np.float32)
        return np.asarray((total + np.float32(sigma * CLIP) * noise) / np.float32(count))

    for count, wrong in ((1.0, set()), (2.0, {"noise", "denominator"})):
        release = Release(lambda v, d, k=count: make(v, d, k), size, sigma, CLIP, 1.0, most=1)  # type: ignore[misc]
        found = check([release], generator=np.random.default_rng(3), numbers=40_000)
        assert {one.name for one in found if one.verdict == "failed"} - {"noise shape"} == wrong


def test_records_that_are_seldom_drawn_raise_no_alarm() -> None:
    """300 right samplings at q = 1/1000, at a level of 1 %: more than 11 alarms have probability 1e-4."""
    n, q, steps = 20_000, 1e-3, 4_000
    times = np.random.default_rng(0).binomial(steps, q, (300, n))
    each = np.square(times - steps * q).sum(axis=1) / (steps * q * (1.0 - q))
    # Var of a squared standard score: 2 + (1 - 6 q (1 - q)) / (steps q (1 - q))
    assert np.var(each) / n == pytest.approx(2.0 + (1.0 - 6.0 * q) / (steps * q), rel=0.35)
    assert sum(of_squares(float(one), n, steps, q) < 0.01 for one in each) <= 11
