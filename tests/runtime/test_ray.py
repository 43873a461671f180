"""RayExecutor: the same bits as inline, failures, dead workers, limits. One cluster for the module."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import ray
from flwr.app import Message

from fedlab.errors import BackendError, UsageError
from fedlab.runtime import RayExecutor, SimulationGrid
from tests.runtime.apps import adding_app, train_messages, weights

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    executor = RayExecutor(workers=1)
    yield executor
    executor.close()
    assert not ray.is_initialized()


def run(executor: RayExecutor, **app: int) -> list[Message]:
    grid = SimulationGrid(adding_app(**app), 3, executor, chunk=1)
    return grid.send_and_receive(train_messages(grid.get_node_ids()))


def test_replies_are_those_of_the_inline_executor(executor: RayExecutor) -> None:
    assert [weights(r) for r in run(executor)] == [[c + 1.0] * 2 for c in range(3)]


def test_a_client_that_raises_fails_alone(executor: RayExecutor) -> None:
    replies = run(executor, fail_on=1)
    assert [r.has_error() for r in replies] == [False, True, False]
    assert "this client is broken" in replies[1].error.reason


def test_a_client_that_kills_its_worker_fails_alone_and_the_worker_is_replaced(executor: RayExecutor) -> None:
    replies = run(executor, die_on=1)
    assert [r.has_error() for r in replies] == [False, True, False]
    assert "the worker died 3 times" in replies[1].error.reason
    assert [r.has_error() for r in run(executor)] == [False, False, False]


def double(item: int, report: Callable[[int, int], None]) -> tuple[int, int]:
    report(1, 1)
    return 2 * item, os.getpid()


def lost(item: int, reason: str) -> tuple[int, int]:
    return -item, 0


def test_map_runs_elsewhere_and_tells_how_far_it_is(executor: RayExecutor) -> None:
    ticks: list[tuple[int, int, int]] = []
    results = dict(executor.map(double, [3, 4, 5], lambda *tick: ticks.append(tick), lost))
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


def test_more_than_the_machine_has_is_refused(executor: RayExecutor) -> None:
    with pytest.raises(BackendError, match=r"1 worker of 1000 CPU .* this machine has"):
        RayExecutor(num_cpus=1000)
    with pytest.raises(BackendError, match=r"lower runtime\.workers"):
        RayExecutor(workers=10_000)
    with pytest.raises(UsageError, match="num_cpus must be > 0"):
        RayExecutor(num_cpus=0)
    assert ray.is_initialized(), "a cluster that somebody else started is left running"
