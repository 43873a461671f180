"""The client side as a Flower `ClientApp` that can take a whole cohort of messages at once.

Flower calls `app(message, context)` once per message. A fedlab executor sees `run_cohort` and hands
over all the messages of a chunk, which then train stacked. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.clients.batches import ClientJob
from fedlab.clients.config import ClientConfig
from fedlab.clients.loop import LocalTraining
from fedlab.clients.plan import plan_batches
from fedlab.clients.rules import LocalRule
from fedlab.errors import BackendError, UsageError
from fedlab.runtime.arrays import Stack, aligned, array_record, array_records, reply_content, tensors
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
        *,
        stacked: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.task, self.owners, self.config, self.seed = task, owners, config, seed
        self.rule, self.stacked, self.device = rule, stacked, device
        self._training: LocalTraining | None = None
        self.train()(self._train_one)
        self.evaluate()(self._evaluate)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_training": None}  # each worker builds its own model, once

    @property
    def training(self) -> LocalTraining:
        """The local loop, built on first use.

        Raises:
            BackendError: there is no such device.
        """
        if self._training is None:
            if self.device == "cuda" and not torch.cuda.is_available():
                raise BackendError(
                    "runtime.num_gpus asks for a GPU, but torch finds none here; set it to 0, or install"
                    " a CUDA build of torch (fedlab doctor shows what there is)"
                )
            task = self.task
            self._training = LocalTraining(
                task.model(seeds.derive(self.seed, "init")),
                task.loss,
                task.train,
                self.rule,
                self.config,
                self.seed,
                stacked=self.stacked,
                device=self.device,
            )
        return self._training

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer each message in order; training messages of the chunk are trained stacked."""
        if not all(message.metadata.message_type.startswith("train") for message in messages):
            return [self(message, context) for message, context in zip(messages, contexts, strict=True)]
        states: dict[int, State] = {}  # messages of a round share one record: unpack it once
        jobs = [self._job(m, c, states) for m, c in zip(messages, contexts, strict=True)]
        size = len(jobs) if self.stacked else 1
        replies: list[Message] = []
        for start in range(0, len(jobs), size):
            part = slice(start, start + size)
            replies += self._train(messages[part], contexts[part], jobs[part])
        return replies

    def _train(
        self, messages: Sequence[Message], contexts: Sequence[Context], jobs: Sequence[ClientJob]
    ) -> list[Message]:
        """Train stacked; the replies are rows of common tensors."""
        result = self.training(jobs)
        sent = array_records({name: Stack(value) for name, value in result.state.items()}, len(jobs))
        if result.memory:
            for row, context in enumerate(contexts):  # its own: as a view it would keep the whole stack
                own = {name: value[row].clone() for name, value in result.memory.items()}
                context.state[MEMORY] = array_record(own)
        replies = []
        for row, (message, job) in enumerate(zip(messages, jobs, strict=True)):
            records = len(job.records)
            metrics: dict[str, float] = {"num-examples": records}
            metrics |= self.rule.metrics(records, result.steps[row], result.losses[row])
            replies.append(Message(reply_content(sent[row], metrics), reply_to=message))
        return replies

    def _train_one(self, message: Message, context: Context) -> Message:
        return self.run_cohort([message], [context])[0]

    def _job(self, message: Message, context: Context, states: dict[int, State]) -> ClientJob:
        client = int(context.node_config["partition-id"])
        if not 0 <= client < len(self.owners):
            raise UsageError(f"partition-id {client}; expected 0 to {len(self.owners) - 1}")
        arrays = cast(ArrayRecord, message.content["arrays"])
        if id(arrays) not in states:
            states[id(arrays)] = tensors(arrays)
        round = int(str(cast(ConfigRecord, message.content["config"])["server-round"]))
        memory = context.state.get(MEMORY)
        return ClientJob(
            client=client,
            round=round,
            state=states[id(arrays)],
            memory=tensors(cast(ArrayRecord, memory)) if memory else {},
            records=self.owners[client],
            plan=plan_batches(len(self.owners[client]), self.config, self.seed, round, client),
        )

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
        outputs, _ = training.model(aligned(state), data.images(ids), training=False)
        labels = data.labels(ids)
        loss = float(training.loss(outputs, labels).mean())
        return loss, float((outputs.argmax(1) == labels).double().mean())
