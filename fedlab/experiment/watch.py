"""What the curious server writes down: observations, privacy events, failures, rejected updates.

The watcher stands at two places: behind the guard, where the strategy stands (`Watcher` itself, called
by the tap), and at the guard's ear (`Watcher.reject`). What was turned away reached the server all the
same, so the privacy that it cost is charged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedlab.audit import KnownConfig, Observation
from fedlab.clients import ClientConfig
from fedlab.privacy import Event, Ledger
from fedlab.runtime import client_of
from fedlab.runtime.arrays import tensors
from fedlab.runtime.guard import REJECTED
from fedlab.snapshot import Snapshot
from fedlab.tasks import FunctionalModel, State

LONGEST_REASON = 4000
"""Characters kept of a client's traceback, from both ends."""

Failed = Callable[[int, int, str], None]
"""Called with (round, client, reason) as soon as a client fails."""
Rejected = Callable[[int, int, str, str], None]
"""Called with (round, client, kind, reason) as soon as an update is turned away."""
NOISY = ("dp-noise-multiplier", "dp-sample-rate", "dp-steps")
"""What a client with noise tells the accountant."""


class Watcher:
    """Called by the tap with each message and its reply.

    Attributes:
        ledger: gets every noisy step that a client reports, of all rounds.
        failures: (round, client, reason) of each failed reply.
        rejections: (round, client, kind, reason) of each reply that the guard turned away; the round is
            the latest that the server knew of where the reply answers nothing that is under way.
    """

    def __init__(
        self,
        model: FunctionalModel,
        config: ClientConfig,
        rounds: Collection[int],
        failed: Failed,
        ledger: Ledger,
        rejected: Rejected | None = None,
    ) -> None:
        self.model, self.config, self.rounds, self.failed = model, config, frozenset(rounds), failed
        self.ledger, self.rejected = ledger, rejected
        self.failures: list[tuple[int, int, str]] = []
        self.rejections: list[tuple[int, int, str, str]] = []
        self._round = 0
        self._observations: list[Observation] = []
        self._sent: tuple[ArrayRecord | None, State] = (None, {})

    def take(self) -> list[Observation]:
        """What was observed since the last call, in the order of (round, client); kept no longer."""
        taken, self._observations = self._observations, []
        return sorted(taken, key=lambda one: (one.round, one.client))

    @property
    def rejected_by_kind(self) -> dict[str, int]:
        """How many updates were turned away, by kind, in alphabetical order."""
        return dict(sorted(Counter(kind for _, _, kind, _ in self.rejections).items()))

    def snapshot(self) -> Snapshot:
        """What it counts; observations and privacy events are on the disk already."""
        failures, rejections = map(list, self.failures), map(list, self.rejections)
        return Snapshot(values={"failures": list(failures), "rejections": list(rejections)})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        self.failures = [tuple(one) for one in snapshot.values["failures"]]
        self.rejections = [tuple(one) for one in snapshot.values["rejections"]]

    def __call__(self, message: Message, reply: Message) -> None:
        """A reply as the strategy sees it."""
        round, client = self._who(message, reply)
        if reply.has_error():
            if reply.error.code != REJECTED:  # `reject` was told of those
                reason = shortened(reply.error.reason or "no reason given")
                self.failures.append((round, client, reason))
                self.failed(round, client, reason)
            return
        self._charge(round, client, reply)
        if round in self.rounds:
            examples = int(float(str(reply.content.metric_records["metrics"]["num-examples"])))
            self._observations.append(self._observe(round, client, message, reply, examples))

    def reject(self, message: Message | None, reply: Message, kind: str, reason: str) -> None:
        """A reply that the guard turned away, and why."""
        round, client = self._who(message, reply)
        reason = shortened(reason)  # it may quote names that the client chose
        self.rejections.append((round, client, kind, reason))
        if self.rejected is not None:
            self.rejected(round, client, kind, reason)
        if message is not None and reply.has_content():
            self._charge(round, client, reply)

    def _who(self, message: Message | None, reply: Message) -> tuple[int, int]:
        config = message.content.get("config") if message is not None else None
        if isinstance(config, ConfigRecord) and "server-round" in config:
            self._round = int(str(config["server-round"]))
        return self._round, client_of(reply.metadata.src_node_id)

    def _charge(self, round: int, client: int, reply: Message) -> None:
        """Put what the client says about its noisy steps into the ledger; what makes no sense is no noise."""
        metrics = reply.content.get("metrics")
        if not isinstance(metrics, MetricRecord) or metrics.keys().isdisjoint(NOISY):
            return
        sigma, rate, steps = (metrics.get(name) for name in NOISY)
        if _within(sigma, math.inf) and _within(rate, 1.0) and _within(steps, 1e12):
            event = Event(client, round, float(str(sigma)), float(str(rate)), int(float(str(steps))))
        else:
            event = Event(client, round, 0.0, 1.0, 1)
        self.ledger.add(event)

    def _observe(
        self, round: int, client: int, message: Message, reply: Message, examples: int
    ) -> Observation:
        sent = message.content.array_records["arrays"]
        if self._sent[0] is not sent:  # one model goes to the whole cohort: unpack it once
            self._sent = (sent, tensors(sent))
        before, after = self._sent[1], tensors(reply.content.array_records["arrays"])
        return Observation(
            round=round,
            client=client,
            before=self.model.parameters_of(before),
            update={name: after[name] - before[name] for name in self.model.parameter_names},
            buffers_before=self.model.buffers_of(before),
            buffers_after=self.model.buffers_of(after),
            config=KnownConfig.all_of(self.config),
            examples=examples,
        )


def shortened(reason: str) -> str:
    """A client's reason, at most `LONGEST_REASON` characters and a few: its first lines and its last."""
    half = LONGEST_REASON // 2
    left_out = len(reason) - 2 * half
    if left_out <= 0:
        return reason
    return f"{reason[:half]}\n[{left_out:,} characters left out]\n{reason[-half:]}"


def _within(value: object, largest: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= largest and value < math.inf
