"""The breakdown point of an aggregator, as it is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedlab.errors import UsageError


def breakdown_point(
    accuracies: Mapping[float, float | Sequence[float]], *, drop: float = 0.10
) -> float | None:
    """The smallest tried share of adversaries at which accuracy falls by more than `drop`; None if none does.

    That is min {f : a(f) < a(0) − drop} over the shares that were tried, where a(f) is the clean test
    accuracy (the mean over seeds, where there are several). It depends on the attack, on the data and on the
    shares tried: the true point lies between the last share below it that held and this one. An
    aggregator's theoretical breakdown point, against every attack, can only be lower.

    Args:
        accuracies: by share of the clients that attack, the clean test accuracy in [0, 1], or one for each
            seed; share 0 is training without an attack.
        drop: of accuracy, absolute: 0.10 is ten percentage points.

    Raises:
        UsageError: no accuracy without an attack, a number out of range, or no seed.
    """
    if not 0.0 < drop < 1.0:
        raise UsageError(f"drop = {drop}; expected a share of test records above 0 and below 1")
    means = {}
    for share, given in accuracies.items():
        values = [float(one) for one in (given if isinstance(given, Sequence) else [given])]
        if not 0.0 <= share <= 1.0:
            raise UsageError(f"share of adversaries {share}; expected 0 to 1")
        if not values or not all(0.0 <= one <= 1.0 for one in values):
            raise UsageError(f"accuracies {values} at a share of {share}; expected numbers from 0 to 1")
        means[share] = math.fsum(values) / len(values)
    if 0.0 not in means:
        raise UsageError("no accuracy at share 0; a drop is measured from training without an attack")
    broken = [share for share, accuracy in means.items() if accuracy < means[0.0] - drop]
    return min(broken, default=None)
