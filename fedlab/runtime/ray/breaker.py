"""A circuit breaker: tells a client that kills its workers from a machine on which no worker can live."""

from __future__ import annotations

import time

from fedlab.errors import BackendError

RETRIES = 2
"""How often a client runs again after its worker died, the last time alone."""
WAVES = 7
"""Generations of workers that may die in a row, with nothing done in between, on more than one client."""
PATIENCE_SECONDS = 15.0
"""How long such generations may live, all together, if coming up is slow and death is quick."""
QUICK_SECONDS = 5.0
"""A worker that dies this soon after it came up says more about workers than about work."""


class Breaker:
    """Counts generations of workers that die without anything getting done."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self.success()

    def success(self) -> None:
        """Something got done."""
        self._waves, self._lived = 0, 0.0
        self._suspects: list[frozenset[int]] = []

    def death(self, born: float, up: float, suspects: frozenset[int], reason: str) -> None:
        """Note the death, now, of a worker that was made at `born` and up at `up` (monotonic seconds).

        Raises:
            BackendError: it is one too many, and no single client can be to blame for all.
        """
        self._suspects.append(suspects)
        if born >= self._last:  # several that die together, as with a node, are one wave
            self._waves, self._last = self._waves + 1, time.monotonic()
            self._lived += self._last - born if self._last - up < QUICK_SECONDS else 0.0
        slow = self._waves > RETRIES + 1 and self._lived > PATIENCE_SECONDS
        if (self._waves >= WAVES or slow) and not frozenset.intersection(*self._suspects):
            raise BackendError(
                f"no worker lives: {len(self._suspects)} died one after the other and nothing got done."
                f" The last one: {reason}. Run with --set runtime.executor=inline to see what happens"
            )
