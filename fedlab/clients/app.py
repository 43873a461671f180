"""The client side as a Flower `ClientApp` that can take a whole cohort of messages at once.

Flower calls `app(message, context)` once per message. A fedlab executor sees `run_cohort` and hands
over all the messages of a chunk, which then train stacked. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.clients.config import ClientConfig
from fedlab.clients.loop import ClientJob, ClientResult, LocalTraining
from fedlab.clients.plan import plan_batches
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.runtime.arrays import tensors
from fedlab.tasks import State, Task

MEMORY = "fedlab.memory"
"""Key of a client's own tensors in `Context.state`."""


class CohortApp(ClientApp):
    """Trains clients of one task; messages carry "arrays" (a state) and "config" (server-round)."""

    def __init__(
        self,
        task: Task,
        owners: Sequence[NDArray[np.int64]],
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.task, self.owners, self.config, self.seed = task, owners, config, seed
        self.rule = rule
        self._training: LocalTraining | None = None
        self.train()(self._train_one)
        self.evaluate()(self._evaluate)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_training": None}  # each worker builds its own model, once

    @property
    def training(self) -> LocalTraining:
        """The local loop, built on first use."""
        if self._training is None:
            task = self.task
            model = task.model(seeds.derive(self.seed, "init"))
            self._training = LocalTraining(model, task.loss, task.train, self.rule, self.config, self.seed)
        return self._training

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer each message in order; training messages of the chunk are trained stacked."""
        stacked = [m.metadata.message_type.startswith("train") for m in messages]
        if not all(stacked):
            return [self(message, context) for message, context in zip(messages, contexts, strict=True)]
        records: dict[int, State] = {}  # messages of a round share one record: unpack it once
        jobs = [self._job(m, c, records) for m, c in zip(messages, contexts, strict=True)]
        results = self.training(jobs)
        return [
            self._reply(m, c, job, result)
            for m, c, job, result in zip(messages, contexts, jobs, results, strict=True)
        ]

    def _train_one(self, message: Message, context: Context) -> Message:
        return self.run_cohort([message], [context])[0]

    def _job(self, message: Message, context: Context, records: dict[int, State]) -> ClientJob:
        client = int(context.node_config["partition-id"])
        if not 0 <= client < len(self.owners):
            raise UsageError(f"partition-id {client}; expected 0 to {len(self.owners) - 1}")
        arrays = message.content.array_records["arrays"]
        if id(arrays) not in records:
            records[id(arrays)] = tensors(arrays)
        round = int(str(message.content.config_records["config"]["server-round"]))
        memory = context.state.array_records.get(MEMORY)
        return ClientJob(
            client=client,
            round=round,
            state=records[id(arrays)],
            memory=tensors(memory) if memory else {},
            records=self.owners[client],
            plan=plan_batches(len(self.owners[client]), self.config, self.seed, round, client),
        )

    def _reply(self, message: Message, context: Context, job: ClientJob, result: ClientResult) -> Message:
        if result.memory:
            context.state[MEMORY] = ArrayRecord(dict(result.memory))
        metrics: dict[str, float] = {"num-examples": len(job.records)}
        metrics |= self.rule.metrics(len(job.records), result.steps, result.loss)
        content = RecordDict(
            {"arrays": ArrayRecord(dict(result.state)), "metrics": MetricRecord(dict(metrics))}
        )
        return Message(content, reply_to=message)

    def _evaluate(self, message: Message, context: Context) -> Message:
        """Loss and accuracy of the received model on the client's own records."""
        job = self._job(message, context, {})
        loss, accuracy = evaluate(self.training, job.state, job.records)
        metrics = MetricRecord({"num-examples": len(job.records), "loss": loss, "accuracy": accuracy})
        return Message(RecordDict({"metrics": metrics, "config": ConfigRecord()}), reply_to=message)


def with_mods(app: CohortApp, mods: Sequence[Mod]) -> ClientApp:
    """The same clients behind Flower mods, which see one message at a time: no longer stacked."""
    if not mods:
        return app
    wrapped = ClientApp(mods=list(mods))
    wrapped.train()(app._train_one)
    wrapped.evaluate()(app._evaluate)
    return wrapped


def evaluate(training: LocalTraining, state: State, ids: NDArray[np.int64]) -> tuple[float, float]:
    """Mean loss and accuracy of `state` on records `ids` of the training data, in inference mode."""
    data = training.data
    with torch.no_grad():
        outputs, _ = training.model(state, data.images(ids), training=False)
        labels = data.labels(ids)
        loss = float(training.loss(outputs, labels).mean())
        return loss, float((outputs.argmax(1) == labels).double().mean())
