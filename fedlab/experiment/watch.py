"""What the curious server writes down: observations, privacy events, failures."""

from __future__ import annotations

from collections.abc import Callable, Collection

from flwr.app import ArrayRecord, Message

from fedlab.audit import KnownConfig, Observation
from fedlab.clients import ClientConfig
from fedlab.privacy import Event, Ledger
from fedlab.runtime import client_of
from fedlab.runtime.arrays import tensors
from fedlab.snapshot import Snapshot
from fedlab.tasks import FunctionalModel, State

Failed = Callable[[int, int, str], None]
"""Called with (round, client, reason) as soon as a client fails."""


class Watcher:
    """Called by the tap with each message and its reply.

    Attributes:
        ledger: gets every noisy step that a client reports, of all rounds.
        failures: (round, client, reason) of each failed reply.
    """

    def __init__(
        self,
        model: FunctionalModel,
        config: ClientConfig,
        rounds: Collection[int],
        failed: Failed,
        ledger: Ledger,
    ) -> None:
        self.model, self.config, self.rounds, self.failed = model, config, frozenset(rounds), failed
        self.ledger = ledger
        self.failures: list[tuple[int, int, str]] = []
        self._observations: list[Observation] = []
        self._sent: tuple[ArrayRecord | None, State] = (None, {})

    def take(self) -> list[Observation]:
        """What was observed since the last call, in the order of (round, client); kept no longer."""
        taken, self._observations = self._observations, []
        return sorted(taken, key=lambda one: (one.round, one.client))

    def snapshot(self) -> Snapshot:
        """What it counts; observations and privacy events are on the disk already."""
        return Snapshot(values={"failures": [list(one) for one in self.failures]})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        self.failures = [tuple(one) for one in snapshot.values["failures"]]

    def __call__(self, message: Message, reply: Message) -> None:
        round = int(str(message.content.config_records["config"]["server-round"]))
        client = client_of(reply.metadata.src_node_id)
        if reply.has_error():
            reason = reply.error.reason or "no reason given"
            self.failures.append((round, client, reason))
            self.failed(round, client, reason)
            return
        metrics = reply.content.metric_records["metrics"]
        if "dp-noise-multiplier" in metrics:
            sigma, rate = float(str(metrics["dp-noise-multiplier"])), float(str(metrics["dp-sample-rate"]))
            self.ledger.add(Event(client, round, sigma, rate, int(float(str(metrics["dp-steps"])))))
        if round in self.rounds:
            examples = int(float(str(metrics["num-examples"])))
            self._observations.append(self._observe(round, client, message, reply, examples))

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
