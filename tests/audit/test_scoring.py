"""Scoring against truths small enough to check by hand."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedlab.audit.attack import Reconstruction
from fedlab.audit.scoring import (
    VictimScore,
    binomial_interval,
    choose_victims,
    score,
    summarise,
)
from fedlab.audit.truth import Truth
from fedlab.errors import DataError, PluginError, UsageError


def truth(size: int = 3, seed: int = 0) -> Truth:
    images = torch.rand((size, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return Truth(1, 4, tuple(range(10, 10 + size)), images, torch.arange(size))


def scored(*values: float | None, refusal: str | None = None) -> VictimScore:
    blank = (None,) * len(values)
    return VictimScore(1, 0, values, blank, blank, blank, None, len(values), refusal=refusal)


def test_a_shuffled_copy_scores_as_a_copy() -> None:
    t = truth()
    answer = Reconstruction(images=t.images[[2, 0, 1]], labels=torch.tensor([2, 0, 1]), residual=0.5)
    result = score(answer, t)
    assert result.psnr == (200.0, 200.0, 200.0)
    assert result.mse == (0.0, 0.0, 0.0)
    assert result.ssim == pytest.approx((1.0, 1.0, 1.0))
    assert result.matched == (1, 2, 0)
    assert (result.labels_correct, result.labels, result.residual) == (3, 3, 0.5)
    assert (result.round, result.client) == (1, 4)


def test_missing_images_are_not_recovered() -> None:
    t = truth()
    result = score(Reconstruction(images=t.images[[2]]), t)
    assert result.psnr == (None, None, 200.0)
    assert result.matched == (None, None, 0)
    assert summarise([result], 20.0).fraction_recovered == pytest.approx(1 / 3)


def test_surplus_images_are_not_searched_for_the_best() -> None:
    # One record, two images, the second exact: taking it would be choosing with the truth.
    t = truth(1)
    result = score(Reconstruction(images=torch.stack([1 - t.images[0], t.images[0]])), t)
    assert result.psnr[0] is not None and result.psnr[0] < 20
    assert result.details["surplus_images"] == 1


def test_a_refusal_scores_nothing() -> None:
    result = score(Reconstruction(images=truth().images, refusal="no linear layer"), truth())
    assert result.psnr == (None, None, None)
    assert result.refusal == "no linear layer"
    assert result.labels_correct is None


def test_labels_alone() -> None:
    result = score(Reconstruction(labels=torch.tensor([0, 1, 9])), truth())
    assert (result.labels_correct, result.labels, result.psnr) == (2, 3, (None, None, None))
    summary = summarise([result], 20.0)
    assert summary.label_accuracy == pytest.approx(2 / 3)
    assert summary.psnr_median is summary.fraction_recovered is None


def test_scores_survive_strict_json() -> None:
    answer = Reconstruction(images=truth().images[:2], details={"rank": 3, "gap": float("inf")})
    result = score(answer, truth())
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert VictimScore.from_dict(json.loads(text)) == result
    assert json.loads(text)["residual"] is None
    assert json.loads(text)["details"] == {"rank": 3, "gap": None}


@pytest.mark.parametrize(
    "change", [{"psnr": None}, {"psnr": [1.0]}, {"mse": ["x", "y", "z"]}, {"labels": None}]
)
def test_a_damaged_score_is_refused(change: dict[str, object]) -> None:
    data = score(Reconstruction(images=truth().images), truth()).to_dict()
    with pytest.raises(DataError, match="does not read"):
        VictimScore.from_dict({**data, **change})


def test_images_of_another_shape_or_range_are_refused() -> None:
    with pytest.raises(PluginError, match="same C, H, W"):
        score(Reconstruction(images=torch.zeros(1, 3, 8, 8)), truth())
    for bad in (1.5, -0.5, float("nan")):
        with pytest.raises(PluginError, match=r"outside \[0, 1\]"):
            score(Reconstruction(images=torch.full((1, 1, 8, 8), bad)), truth())


def test_truth_refuses_what_does_not_fit() -> None:
    images, labels = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UsageError, match="expected B ids"):
        Truth(1, 0, (1,), images, labels)
    with pytest.raises(UsageError, match="outside"):
        Truth(1, 0, (1, 2), images + 255, labels)


def test_summary_by_hand() -> None:
    # Four victims, one refused: median and maximum of {10, 30, 20}; two of four reach 20 dB.
    summary = summarise([scored(10.0), scored(30.0), scored(20.0), scored(None, refusal="no")], 20.0)
    assert (summary.psnr_median, summary.psnr_max, summary.psnr_mean) == (20.0, 30.0, 20.0)
    assert (summary.recovered, summary.images, summary.fraction_recovered) == (2, 4, 0.5)
    assert (summary.victims, summary.refused) == (4, 1)


def test_all_refused_gives_nulls() -> None:
    summary = summarise([scored(None, refusal="no")] * 3, 20.0)
    assert summary.psnr_median is summary.psnr_max is summary.psnr_ci95 is summary.fraction_recovered is None
    assert summary.refused == summary.victims == 3


def test_no_victims_at_all() -> None:
    summary = summarise([], 20.0)
    assert (summary.victims, summary.images, summary.psnr_median) == (0, 0, None)


def test_the_bootstrap_is_deterministic_and_needs_two_victims() -> None:
    scores = [scored(value) for value in (8.0, 9.0, 11.0, 30.0)]
    first = summarise(scores, 20.0).psnr_ci95
    assert first == summarise(scores, 20.0).psnr_ci95
    assert first is not None and 8.0 <= first[0] < 14.5 < first[1] <= 30.0
    assert summarise(scores[:1], 20.0).psnr_ci95 is None
    assert summarise([scored(12.0)] * 5, 20.0).psnr_ci95 == pytest.approx((12.0, 12.0))


def test_a_victims_images_are_resampled_together() -> None:
    # Each victim's own mean is 20, so no resampling of victims can move the mean; resampling images could.
    assert summarise([scored(10.0, 30.0)] * 4, 20.0).psnr_ci95 == pytest.approx((20.0, 20.0))


@pytest.mark.parametrize(("successes", "trials"), [(0, 8), (3, 8), (8, 8), (1, 200)])
def test_the_interval_inverts_the_binomial_test(successes: int, trials: int) -> None:
    low, high = binomial_interval(successes, trials)
    assert low <= successes / trials <= high
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025)
    if successes > 0:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_summary_does_not_depend_on_the_order(values: list[float], shuffle: object) -> None:
    scores = [scored(value) for value in values]
    mixed = list(scores)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    a, b = summarise(scores, 20.0), summarise(mixed, 20.0)
    assert (a.psnr_median, a.psnr_max, a.fraction_recovered) == (
        b.psnr_median,
        b.psnr_max,
        b.fraction_recovered,
    )
    assert a.psnr_median is not None and a.psnr_max is not None and a.psnr_median <= a.psnr_max


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_empty_batches_are_counted_and_never_attacked() -> None:
    observed = [[], [1], [2, 3], [], [4]]
    choice = choose_victims(observed, 10, generator=generator())
    assert choice.indices == (1, 2, 4)
    assert (choice.observed, choice.empty, choice.eligible) == (5, 2, 3)


def test_poisson_victims_have_the_expected_batch() -> None:
    observed = [[], [1], [2, 3], [5], [4]]
    choice = choose_victims(observed, 2, generator=generator(), batch_size=1)
    assert set(choice.indices) <= {1, 3, 4} and len(choice.indices) == 2
    assert (choice.empty, choice.eligible) == (1, 3)


def test_the_choice_is_the_seed_s_alone() -> None:
    observed = [[i] for i in range(50)]
    first = choose_victims(observed, 8, generator=generator())
    assert first == choose_victims(observed, 8, generator=generator())
    assert first.indices != tuple(range(8))
    assert choose_victims([truth(1)], 1, generator=generator()).indices == (0,)


def test_no_eligible_observation_is_an_empty_choice() -> None:
    assert choose_victims([[], []], 8, generator=generator()).indices == ()
    with pytest.raises(UsageError, match="expected at least 1"):
        choose_victims([[1]], 0, generator=generator())
