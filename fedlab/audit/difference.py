"""By how much one attack's scores exceed another's: what a piece of knowledge is worth."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from fedlab.audit.scoring import RESAMPLES, VictimScore, bootstrap
from fedlab.seeds import numpy_generator


@dataclass(frozen=True)
class Difference:
    """By how much one attack's mean PSNR over victims exceeds another's, in dB.

    Attributes:
        mean, ci95: of the difference; the interval is a percentile bootstrap over victims, None for fewer
            than two.
        victims: that count, on the side that has fewer.
        paired: whether both are about the same victims, so that these are resampled in pairs.
    """

    mean: float
    ci95: tuple[float, float] | None
    victims: int
    paired: bool


def difference(
    ours: Mapping[Hashable, VictimScore],
    base: Mapping[Hashable, VictimScore],
    *,
    ceiling: float = math.inf,
    paired: bool = True,
) -> Difference | None:
    """Of victims by key; None where no victim was answered on both sides.

    Args:
        ceiling: a higher PSNR, in dB, counts as that.
        paired: victims of one key are the same; those that one side did not answer are left out.
    """
    mine, theirs = ({key: _mean(one, ceiling) for key, one in side.items()} for side in (ours, base))
    if paired:
        both = [(mine[key], theirs.get(key)) for key in mine]
        gains = [a - b for a, b in both if a is not None and b is not None]
        if not gains:
            return None
        return Difference(float(np.mean(gains)), bootstrap([[gain] for gain in gains]), len(gains), True)
    found = [[value for value in side.values() if value is not None] for side in (mine, theirs)]
    if not all(found):
        return None
    generator = numpy_generator(0, "bootstrap")
    means = [
        np.array(side)[generator.integers(len(side), size=(RESAMPLES, len(side)))].mean(axis=1)
        for side in found
    ]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    least = min(map(len, found))
    interval = (float(low), float(high)) if least > 1 else None
    return Difference(float(np.mean(found[0]) - np.mean(found[1])), interval, least, False)


def _mean(one: VictimScore, ceiling: float) -> float | None:
    """Mean PSNR of a victim's images that were answered."""
    values = [min(value, ceiling) for value in one.psnr if value is not None]
    return float(np.mean(values)) if values else None
