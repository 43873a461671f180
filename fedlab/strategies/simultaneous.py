"""Sync-ST: several tasks trained at once, in common rounds.

The synchronous baseline of Askin, Sharma, Joe-Wong, Joshi, "FedAST: Federated Asynchronous Simultaneous
Training", UAI 2024, https://arxiv.org/abs/2406.00302: the clients of a round are drawn without replacement
and shared out evenly among the tasks that are not finished; each task averages what its own clients send,
and the next round begins when the last task has its updates.

With over-selection each task asks that many times its share, and goes on with the first updates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import DataError, UsageError
from fedlab.runtime.wrapped import Clocked, clock_of, numbered
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator, minimum
from fedlab.strategies.asynchronous.allocation import even
from fedlab.strategies.learner import Arrival, Learner
from fedlab.strategies.rounds import Round
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.schedules import Synchronous
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.strategies.several import Models, TaskServer, TaskServers
from fedlab.strategies.unrounded import Unrounded
from fedlab.tasks import State


class SyncST(Unrounded):
    """Several tasks in common rounds.

    Args:
        tasks: their servers, by label.
        schedule: whom a round asks, over all tasks.
        quorum: updates that a task needs; with fewer its model stays as it was.

    Attributes:
        why_skipped: why the last round left all models as they were; empty if it did not.

    Raises:
        UsageError: the cohort is too small to be shared out.
    """

    kind: ClassVar[str] = "sync-st"

    def __init__(self, tasks: TaskServers, schedule: Synchronous, quorum: int = 1) -> None:
        self.tasks, self.schedule, self.quorum = tasks, schedule, quorum
        self.why_skipped = ""
        least = min(even(schedule.cohort, tasks.labels).values())
        for label in tasks.labels:
            if least < self._needed(label):
                raise UsageError(
                    f"strategy.cohort = {schedule.cohort}, shared by {len(tasks.labels)} tasks, leaves one of"
                    f" them {least} clients; expected at least {self._needed(label)} for each"
                )

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return self.tasks.uplinks

    def finish(self, labels: Iterable[str]) -> None:
        """These tasks are as good as they have to be: nobody works for them any more."""
        self.tasks.finish(labels)

    def run_rounds(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        *,
        first: int = 1,
        last: int,
        timeout: float | None = None,
        received: Callable[[int], None] = lambda number: None,
        train_config: ConfigRecord | None = None,
    ) -> Iterator[Round]:
        """Rounds `first` to `last`; ends early when all tasks are finished.

        Args:
            timeout: (virtual) seconds that a round waits for its replies.
            received: called with the round's number when its updates are in.
        """
        clocked = clock_of(grid)
        models = Models(arrays, self.tasks.labels)
        for number in range(first, last + 1):
            if not self.tasks.unfinished:
                return
            nodes = grid.get_node_ids()
            ids = nodes if isinstance(nodes, range) else sorted(nodes)
            wanted = even(self.schedule.cohort, self.tasks.unfinished)
            asked = self._pushed(grid, ids, models, wanted, number, train_config)
            replies = _gathered(clocked, asked, wanted, timeout)
            received(number)
            metrics = self._combined(models, replies, number, len(ids))
            yield Round(number, models.arrays, bool(metrics), _together(metrics), None)

    def _pushed(
        self,
        grid: Grid,
        ids: Sequence[int],
        models: Models,
        wanted: Mapping[str, int],
        number: int,
        config: ConfigRecord | None,
    ) -> dict[str, str]:
        """Ask a round's clients; the task of each message, by the message's id."""
        chosen = self.schedule.sample(ids, number, getattr(grid, "available", None))
        order = self._shuffled(chosen, number)
        labels = [label for label, size in even(len(order), list(wanted)).items() for _ in range(size)]
        messages = [
            models.instructions(label, self.tasks[label].learner, config, number).message(node)
            for node, label in zip(order, labels, strict=True)
        ]
        label_of = dict(zip(map(id, messages), labels, strict=True))
        sent = numbered(grid.push_messages(messages), messages)
        return {message_id: label_of[id(message)] for message_id, message in sent}

    def _shuffled(self, nodes: list[int], number: int) -> list[int]:
        """Who works for which task is drawn anew in each round, or clients would keep to theirs."""
        order = seeds.numpy_generator(self.schedule.seed, "tasks", number).permutation(len(nodes))
        return [nodes[int(position)] for position in order]

    def _needed(self, label: str) -> int:
        return max(1, self.quorum, minimum(self.tasks[label].learner.aggregator))

    def _combined(
        self, models: Models, replies: Mapping[str, list[Message]], number: int, population: int
    ) -> dict[str, MetricRecord]:
        """Make the tasks' next models; the metrics of those for which there is one."""
        made: dict[str, ArrayRecord] = {}
        metrics: dict[str, MetricRecord] = {}
        reasons = []
        for label, answers in replies.items():
            if len(answers) < self._needed(label):
                reasons.append(f"{len(answers)} usable updates, of {self._needed(label)} that are needed")
                continue
            learner, before = self.tasks[label].learner, models[label]
            found = learner.combine([Arrival(one, before) for one in answers], before, number, population)
            if found is None:
                reasons.append(learner.why_skipped)
            else:
                made[label], metrics[label] = found
        self.why_skipped = "" if made else "; ".join(dict.fromkeys(reasons))
        models.replace(made)
        return metrics

    def facts(self) -> dict[str, Any]:
        """What a report says about how it went."""
        return {"name": self.kind, "tasks": [{"label": label} for label in self.tasks.labels]}

    def snapshot(self) -> Snapshot:
        """What the tasks' servers remember; between rounds nothing is under way."""
        return Snapshot.of({"tasks": self.tasks.snapshot()})

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        if "tasks" not in snapshot.values:
            raise DataError("the checkpoint comes from another algorithm than sync-st; start a new run")
        self.tasks.restore(snapshot.get("tasks"))


def _gathered(
    clocked: Clocked, asked: Mapping[str, str], wanted: Mapping[str, int], timeout: float | None
) -> dict[str, list[Message]]:
    """Each task's first replies without error, as many as it wants; everything else is called off."""
    deadline = math.inf if timeout is None else clocked.now + timeout
    waiting, found = dict(asked), {label: list[Message]() for label in wanted}
    while waiting:
        arrived = clocked.pull_until(waiting.keys(), deadline)
        if not arrived:
            break
        for reply in arrived:
            label = waiting.pop(reply.metadata.reply_to_message_id, None)
            if label is not None and not reply.has_error() and len(found[label]) < wanted[label]:
                found[label].append(reply)
        served = {label for label in wanted if len(found[label]) == wanted[label]}
        surplus = [message_id for message_id, label in waiting.items() if label in served]
        clocked.cancel(surplus)
        for message_id in surplus:
            del waiting[message_id]
    clocked.cancel(waiting)
    return found


def _together(metrics: Mapping[str, MetricRecord]) -> MetricRecord | None:
    """All tasks' metrics as one: how many took part, and of each figure the mean over tasks that have it."""
    if not metrics:
        return None
    columns: dict[str, list[float]] = {}
    for one in metrics.values():
        for name, value in one.items():
            columns.setdefault(name, []).append(float(str(value)))
    means = {name: sum(values) / len(values) for name, values in columns.items()}
    return MetricRecord({**means, "participants": int(sum(columns["participants"]))})


def sync_st(
    *,
    aggregator: Aggregator,
    optimizer: ServerOptimizer,
    cohort: int,
    seed: int,
    parameters: Sequence[str],
    over_selection: float = 1.0,
    quorum: int = 1,
    sampler: Sampler = uniform,
    records: Sequence[int] | None = None,
    server: ServerSide | None = None,
    config: ClientConfig | None = None,
    root: Callable[[State, int], Tensor] | None = None,
    tasks: Mapping[str, TaskServer] | None = None,
) -> Strategy:
    """Several tasks in common rounds: x_m ← x_m + γ Σ Δ_i / K_m over the K_m clients that work for task m.

    Askin et al., "FedAST: Federated Asynchronous Simultaneous Training", UAI 2024,
    https://arxiv.org/abs/2406.00302.

    The baseline of that paper. A round's `cohort` is shared out evenly among the `[[tasks]]` that have not
    met their target, and the round ends when all of them have their updates.
    """
    alone = Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root)
    return SyncST(
        TaskServers(tasks or {"": TaskServer(alone)}),
        Synchronous(cohort, seed, over_selection, sampler, records),
        quorum,
    )
