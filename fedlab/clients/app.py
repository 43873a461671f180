"""The client side as a Flower `ClientApp` that can take a whole cohort of messages at once.

Flower calls `app(message, context)` once per message. A fedlab executor sees `run_cohort` and hands
over all the messages of a chunk, which then train stacked. Both give the same numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

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
from fedlab.runtime.arrays import (
    SERVER,
    UPLINK,
    Stack,
    aligned,
    array_record,
    array_records,
    reply_content,
    tensors,
)
from fedlab.tasks import State, Task

EVALUATION_BATCH = 1000
"""Test records that one pass looks at."""

MEMORY, PERSONAL = "fedlab.memory", "fedlab.personal"
"""Keys in `Context.state` of what a client's rule remembers, and of the parameters that it keeps."""

BEFORE, AGE = "fedlab.memory.before", "fedlab.memory.round"
"""Keys beside `MEMORY`: what it was before the last round, and which round that was."""

EPOCHS = "local-epochs"
"""Key of a message's "config" by which a client is told to do less (or more) than the others."""

LOST, LOST_REPEAT = "lost-since", "lost-since-repeat"
"""Keys of a message's "config": none of the client's updates has counted from that round on; where it was
sent the model of that round several times, from which of them on (0 for the first)."""

REPEAT = "repeat"
"""Key of a message's "config": how often the client was sent the same model before; its draws then differ."""


class CohortApp(ClientApp):
    """Trains clients of one task; messages carry "arrays" (a state) and "config" (server-round).

    A rule's personal parameters are not among the arrays: they stay in the client's context.

    Raises:
        UsageError: the rule cannot follow the configuration.
    """

    def __init__(
        self,
        task: Task,
        owners: Sequence[NDArray[np.int64]],
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
        *,
        stacked: bool = True,
        chunk: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        rule.check(config)
        self.task, self.owners, self.config, self.seed = task, owners, config, seed
        self.rule, self.stacked, self.chunk, self.device = rule, stacked, chunk, device
        self._training: LocalTraining | None = None
        self._kept: frozenset[str] | None = None
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
                chunk=self.chunk,
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
        kept = self._personal_names()
        shared = {name: Stack(value) for name, value in result.state.items() if name not in kept}
        sent = array_records(shared, len(jobs))
        beside = array_records({name: Stack(value) for name, value in result.uplink.items()}, len(jobs))
        for row, context in enumerate(contexts):
            _remember(context, BEFORE, jobs[row].memory)
            _remember(context, MEMORY, {name: value[row] for name, value in result.memory.items()})
            if result.memory:
                context.state[AGE] = ConfigRecord({"round": jobs[row].round, "repeat": jobs[row].repeat})
            _remember(context, PERSONAL, {name: result.state[name][row] for name in kept})
        replies = []
        for row, (message, job) in enumerate(zip(messages, jobs, strict=True)):
            records, steps = len(job.records), result.steps[row]
            metrics: dict[str, float] = {"num-examples": records, "steps": steps}
            metrics |= self.rule.metrics(records, steps, result.losses[row])
            content = reply_content(sent[row], metrics)
            if result.uplink:
                content[UPLINK] = beside[row]
            replies.append(Message(content, reply_to=message))
        return replies

    def _train_one(self, message: Message, context: Context) -> Message:
        return self.run_cohort([message], [context])[0]

    def _job(self, message: Message, context: Context, states: dict[int, State]) -> ClientJob:
        client = int(context.node_config["partition-id"])
        if not 0 <= client < len(self.owners):
            raise UsageError(f"partition-id {client}; expected 0 to {len(self.owners) - 1}")
        arrays = cast(ArrayRecord, message.content["arrays"])
        beside = cast(ArrayRecord | None, message.content.get(SERVER))
        for record in (arrays, beside):
            if record is not None and id(record) not in states:
                states[id(record)] = tensors(record)
        state = states[id(arrays)]
        if self._personal_names():
            own = context.state.get(PERSONAL)
            state = state | (tensors(cast(ArrayRecord, own)) if own else self._personal(client))
        told = cast(ConfigRecord, message.content["config"])
        round, repeat, config = int(str(told["server-round"])), int(str(told.get(REPEAT, 0))), self.config
        if EPOCHS in told:
            config = replace(config, local_steps=None, local_epochs=int(str(told[EPOCHS])))
        return ClientJob(
            client=client,
            round=round,
            state=state,
            memory=_recalled(context, told),
            records=self.owners[client],
            plan=plan_batches(len(self.owners[client]), config, self.seed, round, client, repeat),
            repeat=repeat,
            server={} if beside is None else states[id(beside)],
        )

    def _personal_names(self) -> frozenset[str]:
        """The parameters that stay with the client."""
        if self._kept is None:
            self._kept = frozenset(self._personal(0))
        return self._kept

    def _personal(self, client: int) -> State:
        """The same, as a client begins with them."""
        model = self.training.model
        generator = seeds.torch_generator(self.seed, "personal", client)
        return self.rule.personal(model.parameters_of(model.state()), generator)

    def _evaluate(self, message: Message, context: Context) -> Message:
        """Loss and accuracy of the received model (with the client's own part) on the client's own records;
        "on" = "test" in the config asks for test records in the client's mix of labels instead."""
        job = self._job(message, context, {})
        told = cast(ConfigRecord, message.content["config"])
        if told.get("on") == "test":
            loss, accuracy = evaluate_mix(self.training, self.task, job)
        else:
            loss, accuracy = evaluate(self.training, job.state, job.records)
        metrics = MetricRecord({"num-examples": len(job.records), "loss": loss, "accuracy": accuracy})
        return Message(RecordDict({"metrics": metrics, "config": ConfigRecord()}), reply_to=message)


def _recalled(context: Context, told: ConfigRecord) -> State:
    """What the client's rule remembers of the rounds in which its update counted."""
    made = context.state.config_records.get(AGE)
    undone = (
        made is not None
        and LOST in told
        and _stamp(made, "round", "repeat") >= _stamp(told, LOST, LOST_REPEAT)
    )
    record = context.state.get(BEFORE if undone else MEMORY)
    return tensors(cast(ArrayRecord, record)) if record else {}


def _stamp(record: ConfigRecord, round: str, repeat: str) -> tuple[int, int]:
    """Which of a client's messages a record speaks of."""
    return int(str(record[round])), int(str(record.get(repeat, 0)))


def _remember(context: Context, key: str, state: State) -> None:
    """As copies: a view would keep the whole stack alive."""
    if state:
        context.state[key] = array_record({name: value.clone() for name, value in state.items()})


@runtime_checkable
class CohortMod(Protocol):
    """A Flower mod that can take a whole chunk at once, so that its clients are still trained stacked."""

    def cohort(
        self,
        messages: Sequence[Message],
        contexts: Sequence[Context],
        call_next: Callable[[Sequence[Message], Sequence[Context]], list[Message]],
    ) -> list[Message]:
        """Answer each message, in order; what is asked of the app goes through `call_next`."""


def with_mods(app: CohortApp, mods: Sequence[Mod]) -> ClientApp:
    """The same clients behind Flower mods; stacked no longer, if one of them sees one message at a time."""
    if not mods:
        return app
    whole = [mod for mod in cast(Sequence[object], mods) if isinstance(mod, CohortMod)]
    if len(whole) == len(mods):
        return ModdedApp(app, whole)
    wrapped = ClientApp(mods=list(mods))
    wrapped.train()(app._train_one)
    wrapped.evaluate()(app._evaluate)
    wrapped.query()(_unanswered)
    return wrapped


class ModdedApp(ClientApp):
    """The clients of an app behind mods that take whole chunks, the first nearest to the server."""

    def __init__(self, app: CohortApp, mods: Sequence[CohortMod]) -> None:
        super().__init__()
        self.app, self.cohort_mods = app, list(mods)
        for kind in (self.train, self.evaluate, self.query):
            kind()(self._one)

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer each message in order."""
        return self._through(0, messages, contexts)

    def _through(self, place: int, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        if place == len(self.cohort_mods):
            return self.app.run_cohort(messages, contexts)
        return self.cohort_mods[place].cohort(messages, contexts, functools.partial(self._through, place + 1))

    def _one(self, message: Message, context: Context) -> Message:
        return self.run_cohort([message], [context])[0]


def _unanswered(message: Message, context: Context) -> Message:
    """What only a mod can answer."""
    raise UsageError("a query that no mod of this client answers")


def evaluate(training: LocalTraining, state: State, ids: NDArray[np.int64]) -> tuple[float, float]:
    """Mean loss and accuracy of `state` on records `ids` of the training data, in inference mode."""
    data = training.data
    with torch.no_grad():
        outputs, _ = training.model(aligned(state), data.images(ids), training=False)
        labels = data.labels(ids)
        loss = float(training.loss(outputs, labels).mean())
        return loss, float((outputs.argmax(1) == labels).double().mean())


def evaluate_mix(training: LocalTraining, task: Task, job: ClientJob) -> tuple[float, float]:
    """Mean loss and accuracy on the test set, each class weighted by its share of the client's records.

    NaN where none of the client's classes is in the test set.
    """
    data, losses, hits = task.test, [], []
    state = aligned(job.state)
    with torch.no_grad():
        for ids in np.array_split(np.arange(len(data)), -(-len(data) // EVALUATION_BATCH)):
            outputs, _ = training.model(state, data.images(ids), training=False)
            labels = data.labels(ids)
            losses.append(task.loss(outputs, labels).double())
            hits.append((outputs.argmax(1) == labels).double())
    present = np.bincount(data.y, minlength=task.classes)
    own = training.data.labels(job.records).numpy()
    mix = np.bincount(own, minlength=task.classes) * (present > 0)
    if not mix.any():
        return math.nan, math.nan
    each = torch.from_numpy((mix / mix.sum() / np.maximum(present, 1))[data.y])
    return float(torch.cat(losses) @ each), float(torch.cat(hits) @ each)
