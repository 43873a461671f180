"""GBA: the same global batch whether workers wait for each other or not, so that a run can switch.

Su et al., "GBA: A Tuning-free Approach to Switch between Synchronous and Asynchronous Training for
Recommendation Models", NeurIPS 2022, https://arxiv.org/abs/2205.11048. A synchronous step takes the gradients
of M batches, and so does an asynchronous one: the next M that arrive. The t-th batch that is handed out has
the token floor(t / M), the step that it is meant for; step k makes of M gradients g_i

    (1/M) Σ f(k − token_i) g_i,    f(s) = 0 if s > ι, else 1.

What comes later than the tolerance ι allows counts nothing, and still takes its place among the M. As the
global batch is the same, learning rate and optimizer stay as they are over a switch.

Here a client's trip is the batch, and its update the gradient, times the learning rate: that is the paper's
algorithm with `clients.local_steps = 1` and the aggregator `mean`. With more local steps tokens, global batch
and switches are the same, and a synchronous phase is FedAvg in place of large-batch SGD.

Deviations: models are dense, so that the paper's averages and staleness per embedding ID have no counterpart.
Both modes have batches of one size, hence as many of them in a step (the paper: the same number of records).
In the paper a switch ends one job and starts another one from its checkpoint; here nothing is stopped. To
asynchronous, the room for `concurrency` workers is filled at once. To synchronous, trips under way count as
they come, by their tokens, and only as many workers start beside them as the step needs: at the latest after
ceil(concurrency / M) steps all start together and are waited for. The place of a trip that brings no gradient
is given to the next one, or tokens would run ahead of the steps with every failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import Strategy
from pydantic import Field
from torch import Tensor

from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import UsageError
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator
from fedlab.strategies.asynchronous.buffered import Buffered, Held
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Threshold
from fedlab.strategies.asynchronous.trips import Trip
from fedlab.strategies.learner import Learner
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.tasks import State

Mode = Literal["sync", "async"]


@dataclass(frozen=True)
class Switch:
    """From server update `round` on, the mode is `to`."""

    round: int
    to: Mode


class GBA(Buffered):
    """A buffer of M gradients that counts by tokens, and a barrier that can be raised and lowered.

    Args:
        learner, recruiting, concurrency, max_participations: as in `Buffered`; concurrency is that of
            asynchronous phases.
        cohort: M, gradients of a step in either mode.
        tolerance: ι, steps by which a gradient may be behind its token, at least 0.
        begin: the mode of the first step.
        switches: in the order of their rounds.

    Attributes:
        zeroed: gradients that counted nothing.
        behind: how many gradients were used how many steps after that of their token.

    Raises:
        UsageError: a number out of range.
    """

    kind: ClassVar[str] = "gba"

    def __init__(
        self,
        learner: Learner,
        recruiting: Recruiting,
        *,
        cohort: int,
        concurrency: int,
        tolerance: int,
        begin: Mode = "async",
        switches: Sequence[Switch] = (),
        max_participations: int | None = None,
    ) -> None:
        if tolerance < 0:
            raise UsageError(f"tolerance = {tolerance}; expected at least 0")
        if learner.server.in_step and not learner.server.uplinks:
            raise UsageError(
                f"the local rule's server ({learner.server.name}) adds up what the clients' own memories add"
                " up, so no update may count nothing, as late ones do in gba; choose another local rule"
            )
        super().__init__(
            learner,
            recruiting,
            buffer=cohort,
            concurrency=concurrency,
            staleness=Threshold(cutoff=tolerance, value=0.0),
            max_participations=max_participations,
        )
        self.tolerance, self.begin, self.switches = tolerance, begin, tuple(switches)
        self.zeroed = 0
        self.behind: Counter[int] = Counter()

    def mode(self, round: int) -> Mode:
        """How server update `round` is worked for."""
        return next((one.to for one in reversed(self.switches) if one.round <= round), self.begin)

    def token(self, round: int) -> int:
        """The step that a batch handed out now is meant for, from 0: it follows on all that still count."""
        return round - 1 + (len(self.held) + len(self.trips)) // self.buffer

    def judged(self, trip: Trip, reply: Message, round: int) -> Held:
        """A gradient takes its place in any case, and counts if it is not too late."""
        behind = round - 1 - trip.token
        self.behind[behind] += 1
        self.staleness_seen[round - trip.round] += 1
        counts = self.staleness.weight(behind)
        if counts == 0.0:
            self.zeroed += 1
            self.thrown(trip.node)
        return Held(trip, reply, counts)

    def room(self, round: int) -> int:
        """As many as may train at once, or as the step still needs."""
        if self.mode(round) == "sync":
            return self.buffer - len(self.held) - len(self.trips)
        return super().room(round)

    def cautions(self, seconds: Sequence[float]) -> list[str]:
        """Tells of devices that work in vain.

        A trip of T seconds sees T W / (M E[T]) steps (Little's law), of which its token foresees W / M.
        """
        modes = {self.begin, *(one.to for one in self.switches)}
        times, rate = np.asarray(seconds, dtype=np.float64), self.concurrency / self.buffer
        if "async" not in modes or not len(times) or times.mean() <= 0.0:
            return []
        lost = float(np.mean((times / times.mean() - 1.0) * rate >= self.tolerance + 1))
        if lost < 0.01:
            return []
        return [
            f"tolerance = {self.tolerance} is small for {self.concurrency} workers and a global batch of"
            f" {self.buffer}: in asynchronous phases about {lost:.0%} of the gradients will count nothing,"
            " those of the slowest devices"
        ]

    def facts(self) -> dict[str, Any]:
        """As of any buffer; `staleness` is that of models, `behind` that of tokens."""
        return super().facts() | {
            "tolerance": self.tolerance,
            "begin": self.begin,
            "switches": [[one.round, one.to] for one in self.switches],
            "behind": [list(one) for one in sorted(self.behind.items())],
            "zeroed": self.zeroed,
        }

    def snapshot(self) -> Snapshot:
        """As of any buffer; trips have their tokens with them."""
        whole = super().snapshot()
        whole.values |= {"zeroed": self.zeroed, "behind": sorted(self.behind.items())}
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        super().restore(snapshot)
        self.zeroed, self.behind = snapshot.values["zeroed"], Counter(dict(snapshot.values["behind"]))


def gba(
    *,
    aggregator: Aggregator,
    optimizer: ServerOptimizer,
    cohort: int,
    seed: int,
    parameters: Sequence[str],
    sampler: Sampler = uniform,
    records: Sequence[int] | None = None,
    server: ServerSide | None = None,
    config: ClientConfig | None = None,
    root: Callable[[State, int], Tensor] | None = None,
    concurrency: Annotated[int, Field(ge=1)],
    tolerance: Annotated[int, Field(ge=0)] = 4,
    begin: Mode = "async",
    switch: Sequence[Mapping[str, Any]] = (),
    max_participations: Annotated[int, Field(ge=1)] | None = None,
) -> Strategy:
    """Token control: x ← x + γ/M Σ f(k − token_i) Δ_i of the next M = `cohort`; f(s) = 0 if s > ι, else 1.

    Su et al., "GBA: A Tuning-free Approach to Switch between Synchronous and Asynchronous Training for
    Recommendation Models", NeurIPS 2022, https://arxiv.org/abs/2205.11048.

    A step takes M gradients in either mode, so that a run can switch in the middle. The t-th trip that starts
    has the token floor(t / M), the step k that it is meant for. The paper's clients have `local_steps = 1`,
    and its mean is the aggregator `mean`.

    Args:
        concurrency: workers that train at any time while the mode is `"async"`; a synchronous step has M.
        tolerance: ι; a gradient that is used more steps after that of its token counts nothing.
        begin: the mode of the first step; in mode `"sync"` a step waits for M workers that start together.
        switch: where the mode changes: `[{ round = 100, to = "sync" }]` does so from server update 100 on.
        max_participations: how often a client is asked at most.

    Raises:
        UsageError: an unknown mode, or rounds that do not ascend.
    """
    learner = Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root)
    return GBA(
        learner,
        Recruiting(sampler, seed, records),
        cohort=cohort,
        concurrency=concurrency,
        tolerance=tolerance,
        begin=_mode("begin", begin),
        switches=switches(begin, switch),
        max_participations=max_participations,
    )


def switches(begin: str, given: Sequence[Mapping[str, Any]]) -> list[Switch]:
    """The switches of a run, as a scenario has them.

    Raises:
        UsageError: one that changes nothing, comes before the one before it, or goes nowhere.
    """
    found: list[Switch] = []
    for number, one in enumerate(given):
        where = f"switch[{number}]"
        if not isinstance(one, Mapping) or set(one) != {"round", "to"}:
            raise UsageError(
                f'{where} = {one}; expected a table with round and to, such as {{ round = 100, to = "sync" }}'
            )
        round, to, last = one["round"], _mode(f"{where}.to", one["to"]), found[-1].round if found else 1
        if not isinstance(round, int) or isinstance(round, bool) or round <= last:
            raise UsageError(
                f"{where}.round = {round}; expected an integer above {last}: switches stand in the order of"
                " their rounds, and the first round is as begin says"
            )
        if to == (found[-1].to if found else begin):
            raise UsageError(f'{where}.to = "{to}", which the mode is by then already; remove this switch')
        found.append(Switch(round, to))
    return found


def _mode(where: str, given: object) -> Mode:
    if given not in get_args(Mode):
        raise UsageError(f'{where} = {given!r}; expected "sync" or "async"')
    return cast(Mode, given)
