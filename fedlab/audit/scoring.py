"""Where an attacker's answer meets the truth: the only module that sees both.

Nothing here feeds back into an attack. A score is taken of what the attack returned, in the order in which
it returned it: of more images than the batch has records only the first B count, because an attack that may
offer any number of candidates would let the truth choose among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from fedlab.audit import metrics
from fedlab.audit.attack import Reconstruction
from fedlab.audit.truth import Truth
from fedlab.errors import DataError, PluginError, UsageError
from fedlab.seeds import numpy_generator

RESAMPLES = 2000


@dataclass(frozen=True)
class VictimScore:
    """One answer against the truth; None stands where the attack gave no image.

    Attributes:
        round, client: which observation.
        psnr, ssim, mse: one number per true image.
        matched: for each true image the index of its reconstruction.
        labels_correct: labels named rightly, of `labels` asked; None if the attack names none.
        residual: the attack's own distance, without ground truth.
        refusal: why it did not answer.
        certificates: what closed forms proved about the answer, as `Certificate.to_dict` writes it.
    """

    round: int
    client: int
    psnr: tuple[float | None, ...]
    ssim: tuple[float | None, ...]
    mse: tuple[float | None, ...]
    matched: tuple[int | None, ...]
    labels_correct: int | None
    labels: int
    residual: float | None = None
    refusal: str | None = None
    details: dict[str, float | int | str | None] = field(default_factory=dict)
    certificates: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for strict JSON: non-finite numbers are None."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VictimScore:
        """The inverse of `to_dict`.

        Raises:
            DataError: a key is missing or has another type.
        """
        try:
            lists = {key: tuple(data[key]) for key in ("psnr", "ssim", "mse", "matched")}
            if len({len(values) for values in lists.values()}) != 1:
                raise ValueError("psnr, ssim, mse and matched have different lengths")
            scores = {key: tuple(map(_number, lists[key])) for key in ("psnr", "ssim", "mse")}
            right, refusal = data.get("labels_correct"), data.get("refusal")
            return cls(
                round=int(data["round"]),
                client=int(data["client"]),
                matched=tuple(None if index is None else int(index) for index in lists["matched"]),
                labels_correct=None if right is None else int(right),
                labels=int(data["labels"]),
                residual=_number(data.get("residual")),
                refusal=None if refusal is None else str(refusal),
                details=dict(data.get("details") or {}),
                certificates=tuple(dict(one) for one in data.get("certificates") or []),
                **scores,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"a victim's score does not read: {error!r}; expected the keys round, client, psnr, ssim,"
                " mse, matched and labels. Attack the run again to rewrite it"
            ) from error


def score(reconstruction: Reconstruction, truth: Truth) -> VictimScore:
    """Compare an attacker's answer with the B records behind the observation.

    Images are matched one to one; an original without a reconstruction has PSNR None, which counts as not
    recovered. Images beyond the first B are not looked at (`details["surplus_images"]` says how many).

    Raises:
        PluginError: images of another shape than the truth's, or outside [0, 1].
    """
    size = len(truth)
    blank: tuple[None, ...] = (None,) * size
    details: dict[str, float | int | str | None] = {
        key: _number(value) if isinstance(value, float) else value
        for key, value in reconstruction.details.items()
    }
    right, asked = None, size
    if reconstruction.labels is not None and reconstruction.refusal is None:
        right, asked = metrics.labels_recovered(reconstruction.labels, truth.labels)
    scores: dict[str, tuple[float | None, ...]] = {"psnr": blank, "ssim": blank, "mse": blank}
    matched: list[int | None] = list(blank)
    images = reconstruction.images
    if images is not None and reconstruction.refusal is None:
        if images.ndim != 4 or images.shape[1:] != truth.images.shape[1:]:
            raise PluginError(
                f"an attack returned images {tuple(images.shape)} for records {tuple(truth.images.shape)};"
                " expected the same C, H, W"
            )
        if images.numel() and not (float(images.min()) >= 0.0 and float(images.max()) <= 1.0):
            raise PluginError("an attack returned pixels outside [0, 1]; clamp them before answering")
        if len(images) > size:
            details["surplus_images"] = len(images) - size
            images = images[:size]
        images = images.detach().cpu()
        matched = metrics.match(images, truth.images)
        for name in scores:
            function = metrics.METRICS[name].function
            scores[name] = tuple(
                None if j is None else float(function(images[j : j + 1], truth.images[i : i + 1]))
                for i, j in enumerate(matched)
            )
    return VictimScore(
        round=truth.round,
        client=truth.client,
        matched=tuple(matched),
        labels_correct=right,
        labels=asked,
        residual=_number(reconstruction.residual),
        refusal=reconstruction.refusal,
        details=details,
        certificates=tuple(one.to_dict() for one in reconstruction.certificates),
        **scores,
    )


NO_ANSWER = "the client did not answer: "
"""How the refusal of a victim begins that did not answer a malicious server."""


@dataclass(frozen=True)
class Summary:
    """What a row of the report says about one attack; None where nothing was answered.

    Attributes:
        psnr_median, psnr_max, psnr_mean, ssim_median: over the images that were answered.
        psnr_ci95: percentile bootstrap of the mean over victims (a victim's images stay together).
        label_accuracy: right labels over asked ones.
        fraction_recovered, recovered, images: images at the threshold or above, of all true images of all
            victims, answered or not.
        label_accuracy_ci95, fraction_ci95: exact binomial intervals (Clopper and Pearson 1934).
        victims, refused: observations attacked, and those the attack declined.
    """

    psnr_median: float | None
    psnr_max: float | None
    psnr_mean: float | None
    psnr_ci95: tuple[float, float] | None
    ssim_median: float | None
    label_accuracy: float | None
    label_accuracy_ci95: tuple[float, float] | None
    fraction_recovered: float | None
    fraction_ci95: tuple[float, float] | None
    recovered: int
    images: int
    victims: int
    refused: int


def summarise(scores: Sequence[VictimScore], threshold_db: float) -> Summary:
    """Median, worst case, mean with interval, and fraction recovered at `threshold_db` of many victims."""
    values = [value for one in scores for value in one.psnr]
    answered = [value for value in values if value is not None]
    similar = [value for one in scores for value in one.ssim if value is not None]
    labelled = [one for one in scores if one.labels_correct is not None]
    asked, right = sum(one.labels for one in labelled), sum(one.labels_correct or 0 for one in labelled)
    recovered = sum(value >= threshold_db for value in answered)
    return Summary(
        psnr_median=float(np.median(answered)) if answered else None,
        psnr_max=max(answered) if answered else None,
        psnr_mean=float(np.mean(answered)) if answered else None,
        psnr_ci95=bootstrap([[v for v in one.psnr if v is not None] for one in scores]),
        ssim_median=float(np.median(similar)) if similar else None,
        label_accuracy=right / asked if asked else None,
        label_accuracy_ci95=binomial_interval(right, asked) if asked else None,
        fraction_recovered=metrics.fraction_recovered(values, threshold_db) if answered else None,
        fraction_ci95=binomial_interval(recovered, len(values)) if answered else None,
        recovered=recovered,
        images=len(values),
        victims=len(scores),
        refused=sum(one.refusal is not None for one in scores),
    )


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a rate: 0 of 8 leaves room for up to 0.37."""
    low = float(beta.ppf(0.025, successes, trials - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(0.975, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


@dataclass(frozen=True)
class Choice:
    """Which observations are attacked, and out of how many.

    Attributes:
        indices: positions of the victims, ascending.
        observed, empty, eligible: observations in all, with an empty batch, and open to the draw.
    """

    indices: tuple[int, ...]
    observed: int
    empty: int
    eligible: int


def choose_victims(
    observed: Sequence[Sized], wanted: int, *, generator: torch.Generator, batch_size: int | None = None
) -> Choice:
    """Draw at most `wanted` victims among the observations, without looking at any outcome.

    Args:
        observed: per observation the records of its realised batch (ids, or a `Truth`); only the length
            is used.
        batch_size: under Poisson sampling, the expected batch size: only batches of exactly that many
            records are eligible, which is the case that suits the attacker. None: any batch that is not
            empty.

    Raises:
        UsageError: `wanted` is below 1.
    """
    if wanted < 1:
        raise UsageError(f"{wanted} victims wanted; expected at least 1, set audit.victims")
    sizes = [len(batch) for batch in observed]
    eligible = [i for i, size in enumerate(sizes) if size and batch_size in (None, size)]
    order = torch.randperm(len(eligible), generator=generator)[:wanted]
    return Choice(
        indices=tuple(sorted(eligible[position] for position in order.tolist())),
        observed=len(sizes),
        empty=sizes.count(0),
        eligible=len(eligible),
    )


def bootstrap(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over `groups` resampled whole; None for fewer than two."""
    groups = [group for group in groups if group]
    if len(groups) < 2:
        return None
    sums = np.array([sum(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    picks = numpy_generator(0, "bootstrap").integers(len(groups), size=(RESAMPLES, len(groups)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _number(value: Any) -> float | None:
    """A finite float, or None."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
