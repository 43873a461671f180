"""RayExecutor: the same bits as inline, failures, dead workers, limits, what travels. One cluster for all."""

import functools
import hashlib
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedlab.clients import ClientConfig, LocalRule
from fedlab.errors import BackendError, UsageError
from fedlab.runtime import Executor, InlineExecutor, RayExecutor, SimulationGrid
from fedlab.runtime.arrays import TensorArray
from fedlab.tasks import Task
from tests.runtime.apps import adding_app, train_messages, weights
from tests.runtime.ray_apps import KillingCohort, Starved, always, faulty_app, none, once, zeros

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    executor = RayExecutor(workers=2)
    yield executor
    executor.close()
    assert not ray.is_initialized()


def run(executor: RayExecutor, **app: int) -> list[Message]:
    grid = SimulationGrid(adding_app(**app), 3, executor, chunk=1)
    return grid.send_and_receive(train_messages(grid.get_node_ids()))


def test_replies_are_those_of_the_inline_executor(executor: RayExecutor) -> None:
    assert [weights(r) for r in run(executor)] == [[c + 1.0] * 2 for c in range(3)]


def test_clients_keep_their_state_and_a_failure_keeps_what_was_there(executor: RayExecutor) -> None:
    grid = SimulationGrid(adding_app(), 4, executor, chunk=2)
    for call in (1, 2, 3):
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [r.content["metrics"]["calls"] for r in replies] == [call] * 4


def test_a_client_that_raises_fails_alone(executor: RayExecutor) -> None:
    replies = run(executor, fail_on=1)
    assert [r.has_error() for r in replies] == [False, True, False]
    assert "this client is broken" in replies[1].error.reason


def test_a_client_that_kills_its_worker_fails_alone_and_the_worker_is_replaced(executor: RayExecutor) -> None:
    """Three of five in one chunk: it dies twice, then each client is tried alone, the rest runs together."""
    grid = SimulationGrid(faulty_app(always(1)), 5, executor, chunk=3)
    replies = grid.send_and_receive(zeros(grid.get_node_ids()))
    assert [r.has_error() for r in replies] == [False, True, False, False, False]
    assert "the worker died 3 times" in replies[1].error.reason
    assert [weights(r)[0] for r in replies if not r.has_error()] == [1.0, 3.0, 4.0, 5.0]
    assert [r.has_error() for r in run(executor)] == [False, False, False]


def sha(replies: list[Message]) -> str:
    digest = hashlib.sha256()
    for reply in replies:
        for name, array in sorted(reply.content["arrays"].items()):
            digest.update(name.encode() + array.numpy().tobytes())
        digest.update(repr(sorted(reply.content["metrics"].items())).encode())
    return digest.hexdigest()


def cohort(task: Task, executor: Executor, flag: Path | None = None) -> str:
    """Two rounds of six clients of unequal size in chunks of three: the sha of all replies."""
    owners = [np.arange(c * 15, c * 15 + 9 + c) for c in range(6)]
    config = ClientConfig(batch_size=4, local_epochs=2)
    app = KillingCohort(task, owners, LocalRule(), config, seed=1, flag=flag)
    grid = SimulationGrid(app, 6, executor, chunk=3)
    record = RecordDict(
        {"arrays": ArrayRecord(task.model(0).state()), "config": ConfigRecord({"server-round": 1})}
    )
    replies = []
    for _ in range(2):
        messages = [Message(record, dst_node_id=n, message_type="train") for n in grid.get_node_ids()]
        replies += grid.send_and_receive(messages)
    return sha(replies)


def test_a_killed_worker_changes_no_bit_of_a_cohort(
    executor: RayExecutor, small_task: Task, tmp_path: Path
) -> None:
    reference = cohort(small_task, InlineExecutor())
    assert cohort(small_task, executor) == reference
    assert cohort(small_task, executor, tmp_path / "killed") == reference
    assert (tmp_path / "killed").exists(), "a worker was killed"


def test_the_order_in_which_chunks_run_and_finish_changes_nothing(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is handed out in a random order, and each first result is held back until the others are in."""
    run_pool = executor._pool.run

    def shuffled(works: list[Any], look: Any = None) -> Iterator[tuple[Any, Any]]:
        order = list(works)
        random.Random(3).shuffle(order)
        finished = deque(run_pool(order, look))
        finished.rotate(2)
        yield from finished

    monkeypatch.setattr(executor._pool, "run", shuffled)
    for _ in range(2):
        grid = SimulationGrid(adding_app(), 7, executor, chunk=2)
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [weights(r)[0] for r in replies] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        assert [m.metadata.src_node_id for m in replies] == list(grid.get_node_ids())


def test_a_model_travels_once_per_version_and_never_a_stale_one(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[Any] = []
    put = executor._sender._put
    monkeypatch.setattr(executor._sender, "_put", lambda record: puts.append(record) or put(record))
    grid = SimulationGrid(faulty_app(none), 6, executor, chunk=2)
    messages = zeros(grid.get_node_ids(), size=50_000)
    assert [weights(r)[0] for r in grid.send_and_receive(messages)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(puts) == 1, "three chunks, one model"
    arrays = messages[0].content["arrays"]
    again = [Message(messages[0].content, dst_node_id=2, message_type="train") for _ in range(2)]
    grid.send_and_receive(again[:1])
    assert len(puts) == 1, "the same version again"
    arrays["w"] = Array(np.full(50_000, 10.0))  # the same record, edited in place
    assert weights(grid.send_and_receive(again[1:])[0])[0] == 11.0
    assert len(puts) == 2


def test_replies_are_views_of_shared_memory(executor: RayExecutor, small_task: Task) -> None:
    owners = [np.arange(c * 15, c * 15 + 10) for c in range(6)]
    wide = Task(train=small_task.train, test=small_task.test, network=wide_mlp)
    app = KillingCohort(wide, owners, LocalRule(), ClientConfig(), seed=1)
    grid = SimulationGrid(app, 6, executor, chunk=6)
    record = RecordDict(
        {"arrays": ArrayRecord(wide.model(0).state()), "config": ConfigRecord({"server-round": 1})}
    )
    replies = grid.send_and_receive(
        [Message(record, dst_node_id=n, message_type="train") for n in grid.get_node_ids()]
    )
    arrays = [reply.content["arrays"]["1.weight"] for reply in replies]
    assert all(isinstance(array, TensorArray) for array in arrays)
    assert len({id(array.__dict__["stack"]) for array in arrays}) == 1, "one stack for all"
    assert in_shared_memory(arrays[3].tensor.data_ptr())


def wide_mlp() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2000), torch.nn.Linear(2000, 3))


def in_shared_memory(address: int) -> bool:
    """Whether that address of this process lies in a mapping of Ray's object store."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return "plasma" in line
    return False


def test_out_of_memory_stops_the_run_and_names_the_setting(executor: RayExecutor) -> None:
    grid = SimulationGrid(Starved(), 4, executor, chunk=4)
    with pytest.raises(BackendError, match=r"chunk of 4 clients: .*lower runtime\.chunk"):
        grid.send_and_receive(zeros(grid.get_node_ids()))
    assert [r.has_error() for r in run(executor)] == [False, False, False], "the pool goes on"


def test_a_worker_killed_once_is_not_held_against_its_clients(executor: RayExecutor, tmp_path: Path) -> None:
    grid = SimulationGrid(faulty_app(once(tmp_path / "killed", 2)), 4, executor, chunk=2)
    replies = grid.send_and_receive(zeros(grid.get_node_ids()))
    assert [weights(r)[0] for r in replies] == [1.0, 2.0, 3.0, 4.0]
    pids = [reply.content["where"]["pid"] for reply in replies]
    assert pids[2] == pids[3] and (tmp_path / "killed").exists()


def double(item: int, report: Callable[[int, int], None], seen: Path) -> tuple[int, int]:
    """Ends once somebody has seen how far it is, however slowly the board starts."""
    report(1, 1)
    deadline = time.monotonic() + 60
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return 2 * item, os.getpid()


def lost(item: int, reason: str) -> tuple[int, int]:
    return -item, 0


def test_map_runs_elsewhere_and_tells_how_far_it_is(executor: RayExecutor, tmp_path: Path) -> None:
    ticks: list[tuple[int, int, int]] = []

    def tick(*step: int) -> None:
        ticks.append(step)  # type: ignore[arg-type]
        (tmp_path / "seen").touch()

    work = functools.partial(double, seen=tmp_path / "seen")
    results = dict(executor.map(work, [3, 4, 5], tick, lost))
    assert [results[i][0] for i in range(3)] == [6, 8, 10]
    assert all(pid != os.getpid() for _, pid in results.values())
    assert ticks and set(ticks) <= {(0, 1, 1), (1, 1, 1), (2, 1, 1)}


def die_on_four(item: int, report: Callable[[int, int], None]) -> tuple[int, int]:
    if item == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return item, 1


def test_an_item_that_kills_its_worker_is_lost_alone(executor: RayExecutor) -> None:
    results = dict(executor.map(die_on_four, [3, 4, 5], lambda *tick: None, lost))
    assert results == {0: (3, 1), 1: (-4, 0), 2: (5, 1)}


def refuse(item: int, report: Callable[[int, int], None]) -> int:
    raise UsageError(f"no {item}")


def test_an_exception_in_map_is_raised_here_and_the_pool_goes_on(executor: RayExecutor) -> None:
    with pytest.raises(UsageError, match="no 3"):
        list(executor.map(refuse, [3], lambda *tick: None, lost))
    assert [r.has_error() for r in run(executor)] == [False, False, False]


def test_a_worker_that_is_starting_is_told_from_one_without_room(
    executor: RayExecutor, tmp_path: Path
) -> None:
    """One actor imports for as long as a pipe is open; another one asks for a GPU that there is not."""
    cluster = executor._cluster
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    slow, homeless = Slow.remote(str(pipe)), Slow.options(num_gpus=1000).remote("")
    future = slow.up.remote()
    while not cluster.placed(slow):
        assert not ray.wait([future], timeout=0.1)[0], "it is importing"
    assert not cluster.placed(homeless) and not cluster.has_room(1.0, 1000.0)
    assert cluster.has_room(0.0, 0.0)
    pipe.write_text("imported")
    assert ray.get(future) and cluster.placed(slow)
    ray.kill(slow)
    ray.kill(homeless)


@ray.remote(num_cpus=0)
class Slow:
    def __init__(self, pipe: str) -> None:
        Path(pipe).read_text()

    def up(self) -> bool:
        return True


def test_more_than_the_machine_has_is_refused(executor: RayExecutor) -> None:
    with pytest.raises(BackendError, match=r"1 worker of 1000 CPU .* this machine has"):
        RayExecutor(num_cpus=1000)
    with pytest.raises(BackendError, match=r"lower runtime\.workers"):
        RayExecutor(workers=10_000)
    wrong: list[dict[str, Any]] = [
        {"num_cpus": 0},
        {"num_cpus": float("nan")},
        {"num_gpus": 1.5},
        {"workers": 0},
        {"placement": "x"},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError):
            RayExecutor(**arguments)
    assert ray.is_initialized(), "a cluster that somebody else started is left running"
