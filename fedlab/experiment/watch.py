"""What the curious server writes down: observations, privacy events, and who did not contribute.

The watcher stands at two places: behind the guard, where the strategy stands (`Watcher` itself and
`Watcher.missing`, called by the tap), and at the guard's ear (`Watcher.reject`). What was turned away
reached the server all the same, so the privacy that it cost is charged; what comes too late will reach it,
so that is charged as it was planned. A valid update of a round that was given up for want of a quorum is
observed as any other.

Of a server that sees sums only, single updates are not observed, but what its learner made of them
(`Watcher.combined`): one observation for each new model, after staleness weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from torch import Tensor

from fedlab.audit import KnownConfig, Observation
from fedlab.clients import ClientConfig
from fedlab.experiment.planned import NOISY, SILENT, Plan, repeat, reported, told, unknown
from fedlab.experiment.sums import summed
from fedlab.privacy import Ledger
from fedlab.runtime import client_of
from fedlab.runtime.arrays import SERVER, UPLINK, tensors
from fedlab.runtime.guard import REJECTED
from fedlab.runtime.storage import size
from fedlab.runtime.tap import Missing
from fedlab.snapshot import Snapshot
from fedlab.strategies.learner import Arrival
from fedlab.tasks import FunctionalModel, State

LONGEST_REASON = 4000
"""Characters kept of a client's traceback, from both ends."""

Failed = Callable[[int, int, str], None]
"""Called with (round, client, reason) as soon as a client fails."""
Rejected = Callable[[int, int, str, str], None]
"""Called with (round, client, kind, reason) as soon as an update is turned away."""
Missed = Callable[[int, Missing, list[int]], None]
"""Called with (round, why, clients) when a round goes on without some of those that it asked."""
NOT_ITS_CONTENT = ("quorum", "surplus", "duplicate", "late", "foreign")
"""Why an update may be turned away, whatever it holds."""


class Watcher:
    """Called by the tap with each message and its reply.

    Args:
        sums: whether the server sees sums of updates only; the rounds observed are then those that make a
            model, and not those whose model a client was sent.
        plan: what noise clients were to add; without it whatever they tell is taken for planned.
        recalled: whether clients that nobody waits for any more are stopped before they send an update, as
            in a simulation.

    Attributes:
        ledger: gets every noisy step that a client reports, of all rounds, and who was turned away.
        failures: (round, client, reason) of each failed reply.
        rejections: (round, client, kind, reason) of each reply that the guard turned away; the round is
            the latest that the server knew of where the reply answers nothing that is under way.
        asked: updates that clients were asked for.
        late: by round, how many of them did not come in time.
        stopped: by round, how many were told to stop, because enough others had come.
        heard: clients of whom the strategy got at least one update.
        unheard: clients that were asked for one in vain, whether or not they were heard another time.
        exchanges: messages that were weighed beside their replies: the first of each round, which stand for
            the others; received, sent: bytes of the numbers in them, as the client sees it.
    """

    def __init__(
        self,
        model: FunctionalModel,
        config: ClientConfig,
        rounds: Collection[int],
        failed: Failed,
        ledger: Ledger,
        rejected: Rejected | None = None,
        missed: Missed | None = None,
        *,
        sums: bool = False,
        plan: Plan | None = None,
        recalled: bool = True,
    ) -> None:
        self.model, self.config, self.rounds, self.failed = model, config, frozenset(rounds), failed
        self.ledger, self.rejected, self.missed, self.sums = ledger, rejected, missed, sums
        self.plan, self.recalled = plan, recalled
        self.failures: list[tuple[int, int, str]] = []
        self.rejections: list[tuple[int, int, str, str]] = []
        self.asked = 0
        self.late: Counter[int] = Counter()
        self.stopped: Counter[int] = Counter()
        self.heard: set[int] = set()
        self.unheard: set[int] = set()
        self.exchanges, self.received, self.sent = 0, 0, 0
        self._weighed = 0
        self._round = 0
        self._failed: Counter[int] = Counter()  # failures and rejections by round: a long run has many
        self._refused: Counter[int] = Counter()
        self._observations: list[Observation] = []
        self._sent: tuple[ArrayRecord | None, State] = (None, {})

    def take(self) -> list[Observation]:
        """What was observed since the last call, in the order of (round, client); kept no longer."""
        taken, self._observations = self._observations, []
        return sorted(taken, key=lambda one: (one.round, one.client, one.repeat))

    @property
    def rejected_by_kind(self) -> dict[str, int]:
        """How many updates were turned away, by kind, in alphabetical order."""
        return dict(sorted(Counter(kind for _, _, kind, _ in self.rejections).items()))

    def lost(self, round: int) -> dict[str, int]:
        """How many updates the round went on without, by what became of them."""
        return {
            "failed": self._failed[round],
            "rejected": self._refused[round],
            "late": self.late[round],
            "stopped": self.stopped[round],
        }

    def why_lost(self, round: int) -> str:
        """The same for people: `1 failed, 2 rejected (1 norm, 1 quorum)`; empty if none was lost."""
        kinds = Counter(kind for one, _, kind, _ in self.rejections if one == round)
        which = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return ", ".join(
            f"{count} {word}" + (f" ({which})" if word == "rejected" else "")
            for word, count in self.lost(round).items()
            if count
        )

    @property
    def wire(self) -> dict[str, float] | None:
        """Bytes that a client receives and sends in a round, on average; None if nobody ever answered."""
        if not self.exchanges:
            return None
        return {"received": self.received / self.exchanges, "sent": self.sent / self.exchanges}

    @property
    def never_contributed(self) -> list[int]:
        """Clients that were asked for updates, none of which the strategy ever got; ascending."""
        return sorted(self.unheard - self.heard)

    def snapshot(self) -> Snapshot:
        """What it counts; observations and privacy events are on the disk already."""
        values: dict[str, Any] = {
            "failures": [list(one) for one in self.failures],
            "rejections": [list(one) for one in self.rejections],
            "late": [list(one) for one in sorted(self.late.items())],
            "stopped": [list(one) for one in sorted(self.stopped.items())],
            "heard": sorted(self.heard),
            "unheard": sorted(self.unheard),
            "asked": self.asked,
            "wire": [self.exchanges, self.received, self.sent, self._weighed],
        }
        return Snapshot(values=values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        values = snapshot.values
        self.failures = [tuple(one) for one in values["failures"]]
        self.rejections = [tuple(one) for one in values["rejections"]]
        self._failed = Counter(one for one, *_ in self.failures)
        self._refused = Counter(one for one, *_ in self.rejections)
        self.late, self.stopped = Counter(dict(values["late"])), Counter(dict(values["stopped"]))
        self.heard, self.unheard = set(values["heard"]), set(values["unheard"])
        self.asked = values["asked"]
        self.exchanges, self.received, self.sent, self._weighed = values["wire"]
        for _, client, kind, _ in self.rejections:
            self._turned_away(client, kind)

    def __call__(self, message: Message, reply: Message) -> None:
        """A reply as the strategy sees it."""
        round, client = self._round_of(message), client_of(reply.metadata.src_node_id)
        trained = _asks_for_update(message)
        if trained:
            self.asked += 1
            (self.unheard if reply.has_error() else self.heard).add(client)
        if reply.has_error():
            if reply.error.code != REJECTED:  # `reject` was told of those
                reason = shortened(reply.error.reason or "no reason given")
                self.failures.append((round, client, reason))
                self._failed[round] += 1
                self.failed(round, client, reason)
            return
        self._charge(round, client, message, reply)
        if trained and round > self._weighed:
            self._weighed, self.exchanges = round, self.exchanges + 1
            self.received += size(message.content)
            self.sent += size(reply.content)
        if trained and round in self.rounds and not self.sums:
            self._observe(round, client, message, reply)

    def combined(self, arrivals: Sequence[Arrival], delta: Tensor, model: State, round: int) -> None:
        """What a server saw of these updates that sees sums only; to be called by its `Learner`."""
        if not self.sums or round not in self.rounds:
            return
        self._observations.append(summed(self.model, self.config, arrivals, delta, model, round))

    def missing(self, messages: Sequence[Message], why: Missing) -> None:
        """Messages that nobody waits for any more, and why; only those that asked for an update count."""
        asked = [message for message in messages if _asks_for_update(message)]
        if not asked:
            return
        round = self._round_of(asked[0])
        clients = sorted(client_of(message.metadata.dst_node_id) for message in asked)
        self.asked += len(clients)
        (self.late if why == "late" else self.stopped)[round] += len(clients)
        self.unheard.update(clients)
        if self.plan is not None and (why == "late" or not self.recalled):
            planned = [self.plan.of(message, self._round_of(message)) for message in asked]
            for event in filter(None, planned):
                self.ledger.add(event)
        if self.missed is not None:
            self.missed(round, why, clients)

    def reject(self, message: Message | None, reply: Message, kind: str, reason: str) -> None:
        """A reply that the guard turned away, and why; what reached the server is charged all the same.

        A surplus one has no flaw: it counts as stopped, of which the tap tells.
        """
        round, client = self._round_of(message), client_of(reply.metadata.src_node_id)
        if kind != "surplus":
            reason = shortened(reason)  # it may quote names that the client chose
            self.rejections.append((round, client, kind, reason))
            self._refused[round] += 1
            self._turned_away(client, kind)
            if self.rejected is not None:
                self.rejected(round, client, kind, reason)
        if message is not None and reply.has_content():
            self._charge(round, client, message, reply)
            held = kind in ("quorum", "surplus") and round in self.rounds  # valid ones
            if held and not self.sums:
                self._observe(round, client, message, reply)

    def _turned_away(self, client: int, kind: str) -> None:
        if kind not in NOT_ITS_CONTENT:
            self.ledger.turn_away(client)

    def _round_of(self, message: Message | None) -> int:
        config = message.content.get("config") if message is not None else None
        if isinstance(config, ConfigRecord) and "server-round" in config:
            self._round = int(str(config["server-round"]))
        return self._round

    def _charge(self, round: int, client: int, message: Message, reply: Message) -> None:
        """Put what the client says about its noisy steps into the ledger."""
        planned = None
        if self.plan is not None and _asks_for_update(message):
            planned = self.plan.of(message, round)
        metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
        if not metrics.keys().isdisjoint(NOISY):
            event = reported(metrics, client, round, repeat(message))
        elif planned is not None:
            event = unknown(client, round, repeat(message), SILENT)
        else:
            return
        self.ledger.add(event if self.plan is None else self.plan.compared(event, planned))

    def _observe(self, round: int, client: int, message: Message, reply: Message) -> None:
        (metrics,) = reply.content.metric_records.values()
        sent, answered = _model(message), _model(reply)
        examples = int(float(str(metrics["num-examples"])))
        if self._sent[0] is not sent:  # one model goes to the whole cohort: unpack it once
            self._sent = (sent, tensors(sent))
        before, after = self._sent[1], tensors(answered)
        names = [name for name in self.model.parameter_names if name in before]  # some stay with the clients
        seen = Observation(
            round=round,
            client=client,
            before={name: before[name] for name in names},
            update={name: after[name] - before[name] for name in names},
            buffers_before=self.model.buffers_of(before),
            buffers_after=self.model.buffers_of(after),
            config=KnownConfig.all_of(told(message, self.config)),
            examples=examples,
            repeat=repeat(message),
        )
        self._observations.append(seen)


def shortened(reason: str) -> str:
    """A client's reason, at most `LONGEST_REASON` characters and a few: its first lines and its last."""
    half = LONGEST_REASON // 2
    left_out = len(reason) - 2 * half
    if left_out <= 0:
        return reason
    return f"{reason[:half]}\n[{left_out:,} characters left out]\n{reason[-half:]}"


def _model(message: Message) -> ArrayRecord:
    """The one ArrayRecord that is the model: by kind, not by name, which is the client's own affair."""
    records = message.content.array_records
    (model,) = [record for name, record in records.items() if name not in (SERVER, UPLINK)]
    return model


def _asks_for_update(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == "train"
