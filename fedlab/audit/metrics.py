"""How close a reconstruction is to the truth, on pixels in [0, 1]; each number knows its direction.

PSNR is 10 log10(1 / max(MSE, 1e-20)): at most 200 dB, so that a perfect reconstruction stays valid JSON.
SSIM follows Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing 13(4), 2004, equation 13 with K1 = 0.01,
K2 = 0.03, L = 1, an 11 x 11 Gaussian window of sigma 1.5 and only windows that lie inside the image
(https://doi.org/10.1109/TIP.2003.819861). Deviation: on images smaller than 11 pixels the window is the
largest odd one that fits, and sigma shrinks with it (1.5 * window / 11); 8 x 8 digits get a 7 x 7 window.
Images are compared one to one (Hungarian assignment on MSE): the order of a batch is not recoverable, and
comparing each reconstruction with its nearest original would count one good image several times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedlab import glossary
from fedlab.errors import UsageError

SMALLEST_MSE = 1e-20
WINDOW = 11
SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2


def mse(reconstructed: Tensor, originals: Tensor) -> Tensor:
    """(B,) mean squared error of image pairs (B, C, H, W), in float64.

    Raises:
        UsageError: the shapes differ, or are not (B, C, H, W).
    """
    _check_pairs(reconstructed, originals)
    return (reconstructed.double() - originals.double()).square().mean(dim=(1, 2, 3))


def psnr(reconstructed: Tensor, originals: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of image pairs (B, C, H, W) in [0, 1]; from 0 to 200.

    Raises:
        UsageError: the shapes differ, or are not (B, C, H, W).
    """
    return -10.0 * mse(reconstructed, originals).clamp_min(SMALLEST_MSE).log10()


def ssim(reconstructed: Tensor, originals: Tensor) -> Tensor:
    """(B,) structural similarity of image pairs (B, C, H, W) in [0, 1], averaged over channels; -1 to 1.

    Raises:
        UsageError: the shapes differ, or are not (B, C, H, W).
    """
    _check_pairs(reconstructed, originals)
    batch, _, height, width = originals.shape
    x = reconstructed.double().reshape(-1, 1, height, width)
    y = originals.double().reshape(-1, 1, height, width)
    kernel = _gaussian(_window(height, width))

    def local_mean(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, kernel)

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x.square()
    variance_y = local_mean(y * y) - mean_y.square()
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (
        mean_x.square() + mean_y.square() + LUMINANCE_CONSTANT
    )
    structure = (2 * covariance + CONTRAST_CONSTANT) / (variance_x + variance_y + CONTRAST_CONSTANT)
    return (luminance * structure).reshape(batch, -1).mean(dim=1)


def match(reconstructed: Tensor, originals: Tensor) -> list[int | None]:
    """One-to-one assignment of reconstructions (R, C, H, W) to originals (B, C, H, W) of least total MSE.

    Returns:
        For each original the index of its reconstruction, or None where R < B leaves none over.

    Raises:
        UsageError: images of different shape.
    """
    if reconstructed.ndim != 4 or originals.ndim != 4 or reconstructed.shape[1:] != originals.shape[1:]:
        raise UsageError(
            f"cannot match images {tuple(reconstructed.shape)} with {tuple(originals.shape)};"
            " expected (R, C, H, W) and (B, C, H, W) with equal C, H, W"
        )
    matched: list[int | None] = [None] * len(originals)
    if len(reconstructed) == 0 or len(originals) == 0:
        return matched
    # Differences, not the expanded square: the latter cancels near zero and would misjudge exact matches.
    x, y = reconstructed.double().flatten(1), originals.double().flatten(1)
    cost = torch.stack([(x - image).square().mean(dim=1) for image in y])
    for original, candidate in zip(*linear_sum_assignment(cost.numpy()), strict=True):
        matched[int(original)] = int(candidate)
    return matched


def labels_recovered(guessed: Tensor, true: Tensor) -> tuple[int, int]:
    """(right, asked) for labels (R,) against (B,), compared as multisets: a batch has no order.

    `asked` is max(R, B), so that naming every class does not score as knowing the right one.
    """
    found = Counter(guessed.tolist()) & Counter(true.tolist())
    return sum(found.values()), max(guessed.numel(), true.numel())


def label_accuracy(guessed: Tensor, true: Tensor) -> float:
    """Fraction of labels recovered, see `labels_recovered`; 1.0 for two empty batches."""
    right, asked = labels_recovered(guessed, true)
    return right / asked if asked else 1.0


def fraction_recovered(values: Sequence[float | None], threshold_db: float) -> float:
    """Fraction of true images with a PSNR of at least `threshold_db`; None (no answer) is not recovered."""
    recovered = sum(value is not None and value >= threshold_db for value in values)
    return recovered / len(values) if values else 0.0


@dataclass(frozen=True)
class Metric:
    """A number with what a reader needs to judge it.

    Attributes:
        name: as in report.json; unit: "dB" or "" for plain numbers.
        definition: one or two sentences, printed in the report.
        higher_is_worse: for the person whose data it is; the report sorts and colours by it.
        function: computes it.
    """

    name: str
    unit: str
    definition: str
    higher_is_worse: bool
    function: Callable[..., Any]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "dB", glossary.METRICS["psnr"], True, psnr),
        Metric("ssim", "", glossary.METRICS["ssim"], True, ssim),
        Metric("mse", "", glossary.METRICS["mse"], False, mse),
        Metric("label_accuracy", "", glossary.METRICS["label_accuracy"], True, label_accuracy),
        Metric("fraction_recovered", "", glossary.METRICS["fraction_recovered"], True, fraction_recovered),
    )
}


def _window(height: int, width: int) -> int:
    side = min(WINDOW, height, width)
    return side if side % 2 else side - 1


def _gaussian(window: int) -> Tensor:
    """(1, 1, window, window) Gaussian weights of sum 1."""
    offsets = torch.arange(window, dtype=torch.float64) - window // 2
    sigma = SIGMA * window / WINDOW
    line = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum())[None, None]


def _check_pairs(reconstructed: Tensor, originals: Tensor) -> None:
    if reconstructed.shape != originals.shape or originals.ndim != 4 or 0 in originals.shape[1:]:
        raise UsageError(
            f"cannot compare images {tuple(reconstructed.shape)} with {tuple(originals.shape)};"
            " expected two equal shapes (B, C, H, W)"
        )
