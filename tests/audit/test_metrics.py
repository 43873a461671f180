"""Image metrics against numbers derived by hand, scikit-image and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fedlab.audit import metrics
from fedlab.errors import UsageError


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_mse_and_psnr_of_a_constant_error() -> None:
    # Every pixel is off by 0.1: MSE = 0.01, PSNR = 10 log10(1 / 0.01) = 20 dB.
    original = torch.full((2, 3, 4, 5), 0.5, dtype=torch.float64)
    reconstructed = original + 0.1
    torch.testing.assert_close(metrics.mse(reconstructed, original), torch.full((2,), 0.01).double())
    torch.testing.assert_close(metrics.psnr(reconstructed, original), torch.full((2,), 20.0).double())


def test_psnr_of_an_exact_copy_is_200_and_of_black_against_white_is_0() -> None:
    white = torch.ones(1, 1, 8, 8)
    assert metrics.psnr(white, white).tolist() == [200.0]
    assert metrics.psnr(torch.zeros_like(white), white).tolist() == [0.0]


def test_psnr_agrees_with_scikit_image() -> None:
    a, b = images(3, 3, 9, 7, seed=1), images(3, 3, 9, 7, seed=2)
    expected = [
        peak_signal_noise_ratio(y.numpy().astype(np.float64), x.numpy().astype(np.float64), data_range=1.0)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(a, b).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(32, 32, 11), (11, 20, 11), (10, 32, 9), (8, 8, 7), (7, 9, 7), (6, 6, 5), (4, 3, 3), (2, 2, 1)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_scikit_image(height: int, width: int, window: int, channels: int) -> None:
    # scikit-image derives its window from sigma: 2 * int(3.5 sigma + 0.5) + 1, which is ours.
    a = images(2, channels, height, width, seed=3)
    b = (a + 0.3 * images(2, channels, height, width, seed=4)).clamp(0, 1)
    expected = [
        structural_similarity(
            x.numpy().astype(np.float64),
            y.numpy().astype(np.float64),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5 * window / 11,
            use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(a, b).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_ssim_of_an_image_with_itself_is_one_and_with_its_negative_is_below_zero() -> None:
    a = images(1, 1, 12, 12)
    assert metrics.ssim(a, a).item() == pytest.approx(1.0, abs=1e-12)
    assert metrics.ssim(1 - a, a).item() < 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), ours=st.integers(1, 5), theirs=st.integers(1, 5))
def test_match_is_the_cheapest_one_to_one_assignment(seed: int, ours: int, theirs: int) -> None:
    reconstructed, originals = images(ours, 1, 2, 2, seed=seed), images(theirs, 1, 2, 2, seed=seed + 1)
    matched = metrics.match(reconstructed, originals)
    used = [index for index in matched if index is not None]
    assert len(used) == len(set(used)) == min(ours, theirs)

    def cost(i: int, j: int) -> float:
        return float((reconstructed[j].double() - originals[i].double()).square().mean())

    few, many = sorted((ours, theirs))
    best = min(
        sum(cost(*((i, j) if theirs <= ours else (j, i))) for i, j in enumerate(choice))
        for choice in itertools.permutations(range(many), few)
    )
    found = sum(cost(i, j) for i, j in enumerate(matched) if j is not None)
    assert found == pytest.approx(best, abs=1e-12)


def test_match_undoes_a_permutation() -> None:
    originals = images(6, 3, 4, 4)
    order = [3, 0, 5, 1, 4, 2]
    assert metrics.match(originals[order], originals) == [order.index(i) for i in range(6)]


def test_match_without_candidates() -> None:
    assert metrics.match(torch.zeros(0, 1, 2, 2), images(2, 1, 2, 2)) == [None, None]


def test_labels_are_compared_as_counts() -> None:
    # {1, 1, 2} against {1, 2, 2}: one 1 and one 2 are right, of three.
    assert metrics.labels_recovered(torch.tensor([1, 1, 2]), torch.tensor([2, 1, 2])) == (2, 3)


def test_naming_every_class_is_not_knowing_the_label() -> None:
    assert metrics.label_accuracy(torch.arange(10), torch.tensor([4])) == 0.1


def test_fraction_recovered_counts_no_answer_as_not_recovered() -> None:
    assert metrics.fraction_recovered([20.0, 19.99, None, 40.0], 20.0) == 0.5


@pytest.mark.parametrize("name", ["psnr", "ssim", "mse"])
def test_shapes_that_broadcast_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected two equal shapes"):
        metrics.METRICS[name].function(images(1, 1, 8, 8), images(4, 1, 8, 8))
    with pytest.raises(UsageError, match="expected two equal shapes"):
        metrics.METRICS[name].function(images(8, 8), images(8, 8))


def test_match_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match="equal C, H, W"):
        metrics.match(images(2, 1, 8, 8), images(2, 3, 8, 8))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), small=st.floats(0.01, 0.2), factor=st.floats(1.5, 4.0))
def test_the_declared_direction_is_the_true_one(seed: int, small: float, factor: float) -> None:
    """A reconstruction nearer to the original is worse for its owner, by each metric's own sign."""
    original = images(1, 1, 11, 11, seed=seed) * 0.2 + 0.4
    noise = images(1, 1, 11, 11, seed=seed + 1) - 0.5
    near, far = original + small * noise, original + small * factor * noise
    for name in ("psnr", "ssim", "mse"):
        metric = metrics.METRICS[name]
        worse = metric.function(near, original) > metric.function(far, original)
        assert bool(worse) is metric.higher_is_worse
