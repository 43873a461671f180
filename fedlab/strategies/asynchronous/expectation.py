"""What to expect of a buffer before anything is trained: how stale updates will be, and how many are thrown
away.

Little's law: M clients train at any time, for E[T] seconds on average, so M / E[T] updates arrive a second
and a model is made every K E[T] / M seconds. A trip of T seconds then sees T M / (K E[T]) models made,
which is M / K on average. What is thrown away makes no model, so that the rest is less stale: the share
that is kept is a fixed point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ITERATIONS = 60


def discard_rate(seconds: Sequence[float], concurrency: int, buffer: int, max_staleness: int) -> float:
    """The share of updates that will be staler than `max_staleness`, as far as durations tell.

    Args:
        seconds: of trips, as devices drawn uniformly take them.
    """
    times = np.asarray(seconds, dtype=np.float64)
    mean = float(times.mean()) if len(times) else 0.0
    if mean <= 0.0:
        return 0.0
    seen = times / mean * concurrency / buffer  # models made during each trip, if nothing is thrown away
    kept = 1.0
    for _ in range(ITERATIONS):  # the share falls with itself: half a step at a time, or it would swing
        kept = (kept + float(np.mean(kept * seen < max_staleness + 1))) / 2.0
    return 1.0 - kept


def cautions(seconds: Sequence[float], concurrency: int, buffer: int, max_staleness: int | None) -> list[str]:
    """Sentences about settings that are allowed, and seldom meant."""
    found = []
    lost = 0.0 if max_staleness is None else discard_rate(seconds, concurrency, buffer, max_staleness)
    if buffer > concurrency:
        found.append(
            f"the buffer (strategy.cohort = {buffer}) holds more updates than clients train at once"
            f" (concurrency = {concurrency}): most updates of a model start from the same one, as in a"
            f" synchronous round; about {lost:.0%} of the updates will be thrown away as too stale"
        )
    elif max_staleness is not None and lost >= 0.01:
        found.append(
            f"max_staleness = {max_staleness} is small for {concurrency} clients at a time and {buffer}"
            f" updates per model (mean staleness about {concurrency / buffer:.3g}): about {lost:.0%} of the"
            " updates will be thrown away, those of the slowest devices first"
        )
    return found
