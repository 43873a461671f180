"""Whom an asynchronous server asks when somebody has come back.

Clients are drawn by the scenario's sampler among those that are not training: a client never trains twice at
once. In a large population the busy ones are few; then it is drawn from all, and busy ones are drawn again,
which costs the same for a thousand clients as for a hundred million.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedlab import seeds
from fedlab.errors import PluginError, UsageError
from fedlab.strategies.sampling import LISTED as NEVER_LISTED
from fedlab.strategies.sampling import Population, Sampler, available, cyclic, poisson, uniform
from fedlab.strategies.schedules import called, checked

LISTED = 4
"""A population this many times as large as the number of clients that cannot be asked is not listed."""
TRIES = 64
"""Draws per wanted client before a population is listed nevertheless."""

Whether = Callable[[int], bool]


class Recruiting:
    """Draws clients that are free; what it draws depends on the seed and the number of draws before alone.

    Args:
        sampler: `uniform`, `weighted`, `available` or one of your own; samplers that plan whole rounds
            (`poisson`, `cyclic`) make no sense here.
        records: how many records each client holds, in the order of ids, for samplers that need it.

    Raises:
        UsageError: a sampler that plans whole rounds; when called, one that would have to list too many.
    """

    def __init__(self, sampler: Sampler, seed: int, records: Sequence[int] | None = None) -> None:
        kind = getattr(sampler, "func", sampler)
        if kind in (poisson, cyclic):
            raise UsageError(
                f'the sampler "{kind.__name__}" plans whole rounds, and an asynchronous strategy has none;'
                ' choose "uniform", "weighted" or "available"'
            )
        self.sampler, self.seed, self.records = sampler, seed, records
        self.draws = 0

    def __call__(
        self, nodes: Sequence[int], size: int, out: Callable[[int], bool], many: int, there: Whether | None
    ) -> list[int]:
        """At most `size` clients.

        Args:
            nodes: the ids of all, ascending; a `range` where there are many.
            out: whether a client cannot be asked, because it trains or has done its share.
            many: how many of them there are.
            there: whether a client's device is there now; all are, if None.
        """
        if size < 1:
            return []
        self.draws += 1
        generator = seeds.numpy_generator(self.seed, "sampling", self.draws)
        fits: Whether = lambda node: not out(node)  # noqa: E731
        if self.sampler in (uniform, available) and len(nodes) > LISTED * (many + size):
            free = fits
            if self.sampler is available and there is not None:
                fits = lambda node: not out(node) and there(node)  # noqa: E731
            found = _thinly(nodes, size, fits, generator)
            if len(found) == size:
                return found
            if len(nodes) > NEVER_LISTED:  # hardly anybody is there: as the sampler itself does it
                return found or _thinly(nodes, size, free, generator)
        if self.sampler not in (uniform, available) and len(nodes) > NEVER_LISTED:
            raise UsageError(
                f"{called(self.sampler)} gets a list of all clients that are free, but {len(nodes)} are more"
                f' than {NEVER_LISTED}; take "uniform" or "available"'
            )
        places = [place for place, node in enumerate(nodes) if not out(node)]
        left = nodes if len(places) == len(nodes) else [nodes[place] for place in places]
        size = min(size, len(left))
        if not size:
            return []
        records = None if self.records is None else [self.records[place] for place in places]
        population = Population(left, records, there, self.seed)
        picks = checked(self.sampler, self.sampler(population, size, self.draws, generator), left)
        if len(picks) > size:
            raise PluginError(
                f"{called(self.sampler)} returned {len(picks)} clients; expected at most {size}, as there"
                " is room for"
            )
        return picks


def _thinly(nodes: Sequence[int], size: int, fits: Whether, generator: np.random.Generator) -> list[int]:
    """At most `size` that fit, ascending, drawn from all nodes until there are enough, or patience ends."""
    found: dict[int, None] = {}
    for _ in range(TRIES):
        for position in generator.choice(len(nodes), size=size - len(found), replace=False):
            node = nodes[int(position)]
            if node not in found and fits(node):
                found[node] = None
        if len(found) == size:
            break
    return sorted(found)
