"""The ClientApp: stacked over any chunk, behind mods, one broken client among others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp, with_mods
from fedlab.errors import BackendError
from fedlab.runtime import SimulationGrid
from fedlab.tasks import Task

OWNERS = [np.arange(c * 15, c * 15 + 10 + c) for c in range(5)]


def cohort_app(task: Task, owners: list[NDArray[np.int64]] = OWNERS) -> CohortApp:
    return CohortApp(task, owners, LocalRule(), ClientConfig(batch_size=4, local_epochs=2), seed=1)


def train(task: Task, app: ClientApp, chunk: int, kind: str = "train") -> list[Message]:
    grid = SimulationGrid(app, 5, chunk=chunk)
    record = RecordDict(
        {"arrays": ArrayRecord(task.model(0).state()), "config": ConfigRecord({"server-round": 1})}
    )
    return grid.send_and_receive(
        [Message(record, dst_node_id=n, message_type=kind) for n in grid.get_node_ids()]
    )


def vector(reply: Message) -> NDArray[np.float64]:
    return np.concatenate([a.numpy().ravel().astype(float) for a in reply.content["arrays"].values()])


def test_any_chunk_gives_the_same_updates(small_task: Task) -> None:
    start = np.concatenate([v.numpy().ravel() for v in small_task.model(0).state().values()])
    reference = [vector(r) for r in train(small_task, cohort_app(small_task), 5)]
    for chunk in (1, 2, 3):
        for a, b in zip(reference, train(small_task, cohort_app(small_task), chunk), strict=True):
            assert np.linalg.norm(a - vector(b)) <= 1e-5 * np.linalg.norm(a - start)


def test_mods_wrap_the_same_training(small_task: Task) -> None:
    seen: list[int] = []

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        seen.append(int(context.node_config["partition-id"]))
        return call_next(message, context)

    app = cohort_app(small_task)
    assert with_mods(app, ()) is app
    wrapped = train(small_task, with_mods(cohort_app(small_task), [mod]), 5)
    alone = train(small_task, app, 1)
    assert seen == [0, 1, 2, 3, 4]
    assert all((vector(a) == vector(b)).all() for a, b in zip(wrapped, alone, strict=True))


def test_mods_that_take_whole_chunks_leave_clients_stacked(small_task: Task) -> None:
    """The first mod is nearest to the server; bits are those without mods, and a query reaches the mods."""
    seen: list[tuple[str, int]] = []

    class Whole:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
            raise AssertionError("called for one message")

        def cohort(
            self,
            messages: Sequence[Message],
            contexts: Sequence[Context],
            call_next: Callable[[Sequence[Message], Sequence[Context]], list[Message]],
        ) -> list[Message]:
            seen.append((self.name, len(messages)))
            if messages[0].metadata.message_type == "query":
                return [Message(RecordDict(), reply_to=message) for message in messages]
            return call_next(messages, contexts)

    wrapped = with_mods(cohort_app(small_task), [Whole("first"), Whole("second")])
    replies = train(small_task, wrapped, 5)
    plain = train(small_task, cohort_app(small_task), 5)
    assert seen == [("first", 5), ("second", 5)]
    assert all((vector(a) == vector(b)).all() for a, b in zip(replies, plain, strict=True))
    assert all(reply.has_content() for reply in train(small_task, wrapped, 5, kind="query"))


def test_evaluation_is_on_the_clients_own_records(small_task: Task) -> None:
    replies = train(small_task, cohort_app(small_task), 5, kind="evaluate")
    metrics = [r.content["metrics"] for r in replies]
    assert [m["num-examples"] for m in metrics] == [10, 11, 12, 13, 14]
    assert all(0.0 <= m["accuracy"] <= 1.0 and m["loss"] > 0.0 for m in metrics)


def test_a_broken_client_fails_alone(small_task: Task) -> None:
    owners = [*OWNERS[:2], np.array([10**6]), *OWNERS[3:]]  # its record does not exist
    replies = train(small_task, cohort_app(small_task, owners), 5)
    assert [r.has_error() for r in replies] == [False, False, True, False, False]
    assert "IndexError" in replies[2].error.reason


def test_the_task_travels_without_its_built_model(small_task: Task) -> None:
    app = cohort_app(replace(small_task))
    assert app.training is app.training, "built once"
    assert app.__getstate__()["_training"] is None


def test_a_gpu_that_is_not_there_stops_the_run(small_task: Task) -> None:
    """It is the machine's fault, so no client is marked as failed for it."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    app = CohortApp(small_task, OWNERS, LocalRule(), ClientConfig(), seed=1, device="cuda")
    with pytest.raises(BackendError, match=r"runtime\.num_gpus asks for a GPU"):
        train(small_task, app, chunk=5)


def test_one_after_the_other_gives_what_a_stack_gives(small_task: Task) -> None:
    start = np.concatenate([v.numpy().ravel() for v in small_task.model(0).state().values()])
    config = ClientConfig(batch_size=4, local_epochs=2)
    alone = CohortApp(small_task, OWNERS, LocalRule(), config, seed=1, stacked=False)
    for one, other in zip(
        train(small_task, cohort_app(small_task), 5), train(small_task, alone, 5), strict=True
    ):
        apart = np.linalg.norm(vector(one) - vector(other))
        assert apart <= 1e-5 * np.linalg.norm(vector(one) - start)
