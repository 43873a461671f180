"""FedAST: one task is FedBuff without weights; several share requests of which none is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest

from fedlab.clients.several import task_of
from fedlab.errors import DataError, UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.runtime.devices import SimulatedFleet
from fedlab.strategies import SGD, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.aggregators.krum import MultiKrum
from fedlab.strategies.asynchronous.fedast import fedast
from fedlab.strategies.asynchronous.fedbuff import fedbuff
from fedlab.strategies.asynchronous.simultaneous import FedAST
from fedlab.strategies.rounds import Round
from fedlab.tasks import State
from tests.strategies.several_scene import (
    CLIENTS,
    NETWORKS,
    TIMES,
    Watched,
    both,
    client_app,
    same,
    start,
    task,
)


def made(**options: Any) -> FedAST:
    settings: dict[str, Any] = {"cohort": 2, "concurrency": 8, "tasks": both()} | options
    strategy = fedast(
        aggregator=as_aggregator(mean), optimizer=SGD(0.5), seed=7, parameters=["unused"], **settings
    )
    assert isinstance(strategy, FedAST)
    return strategy


class Noting:
    """Notes what another recruiting draws."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seen = inner, list[int]()

    def __call__(self, *arguments: Any) -> list[int]:
        found: list[int] = self.inner(*arguments)
        self.seen += found
        return found


class Repeating:
    """Asks the same clients, one by one."""

    def __init__(self, seen: Sequence[int]) -> None:
        self.left, self.draws = iter(seen), 0

    def __call__(self, ids: Sequence[int], size: int, *rest: object) -> list[int]:
        return list(islice(self.left, size))


def test_one_task_is_fedbuff_without_a_staleness_weight_bit_for_bit() -> None:
    """For the sequence of clients that FedBuff draws, which never asks one that is busy."""
    model = task(NETWORKS["deep"]).model(1)
    common: dict[str, Any] = {
        "aggregator": as_aggregator(mean),
        "optimizer": SGD(0.5),
        "cohort": 2,
        "seed": 7,
        "parameters": model.parameter_names,
        "concurrency": 4,
    }
    buffered, simultaneous = fedbuff(**common, staleness="constant"), fedast(**common)
    assert isinstance(simultaneous, FedAST)
    noting = Noting(buffered.recruiting)  # type: ignore[attr-defined]
    buffered.recruiting = noting  # type: ignore[attr-defined]
    found = []
    for strategy in (buffered, simultaneous):
        grid = SimulationGrid(client_app("deep"), SimulatedFleet(CLIENTS, time=list(TIMES)), chunk=4)
        run = strategy.run_rounds(grid, array_record(model.state()), last=9)  # type: ignore[attr-defined]
        found.append([(tensors(one.arrays), grid.now) for one in run])
        simultaneous.recruiting = Repeating(noting.seen)  # type: ignore[assignment]
    assert [now for _, now in found[0]] == [now for _, now in found[1]]
    assert all(same(one, other) for (one, _), (other, _) in zip(*found, strict=True))
    assert simultaneous.facts()["staleness"] == buffered.facts()["staleness"]  # type: ignore[attr-defined]
    assert buffered.facts()["mean_staleness"] > 0.5  # type: ignore[attr-defined]


def test_each_task_has_its_buffer_and_its_model_and_leaves_the_others_alone() -> None:
    strategy, grid = made(), Watched()
    before: State = tensors(start())
    for one in strategy.run_rounds(grid, start(), last=12):
        after = tensors(one.arrays)
        (changed,) = {
            name.partition("/")[0] for name in after if not same({"": after[name]}, {"": before[name]})
        }
        assert one.train is not None and one.train["participants"] == strategy.requests.buffer(changed) == 2
        before = after
    assert {row["label"]: row["models"] for row in strategy.facts()["tasks"]}.keys() == NETWORKS.keys()
    assert sum(row["models"] for row in strategy.facts()["tasks"]) == 12


def test_a_deadline_that_nobody_meets_is_said_at_every_step_and_does_not_hang() -> None:
    """Eight requests are called off at a time: 4 M = 32 for each step."""
    strategy, grid = made(), Watched([5.0])
    assert [one.updated for one in strategy.run_rounds(grid, start(), last=2, timeout=1.0)] == [False] * 2
    assert strategy.why_skipped == "32 replies in a row brought nothing: 32 late" and grid.now == 8.0


def test_a_clients_requests_queue_and_never_overlap() -> None:
    """Eight requests at six clients: somebody has two. Who takes T seconds answers at most every T."""
    strategy, grid = made(), Watched()
    list(strategy.run_rounds(grid, start(), last=20))
    waiting, answered, queued = Counter[int](), dict[int, float](), 0
    for what, message, now in grid.log:
        if what == "sent":
            node = message.metadata.dst_node_id
            queued += waiting[node] > 0
            waiting[node] += 1
        else:
            node = message.metadata.src_node_id
            seconds = TIMES[node - min(grid.get_node_ids())]
            assert now - answered.get(node, 0.0) >= seconds - 1e-9
            answered[node] = now
            waiting[node] -= 1
        assert sum(waiting.values()) <= 8
    assert queued > 0


def test_repeated_messages_of_one_model_are_told_apart() -> None:
    strategy, grid = made(concurrency=24, cohort=6), Watched()
    list(strategy.run_rounds(grid, start(), last=2))
    told = [
        (message.metadata.dst_node_id, config["server-round"], config.get("repeat", 0))
        for what, message, _ in grid.log
        if what == "sent" and (config := message.content.config_records["config"])
    ]
    assert len(told) == len(set(told)) > CLIENTS


def test_a_finished_task_is_called_off_and_its_requests_start_for_the_others_at_once() -> None:
    strategy, grid = made(), Watched()
    run = strategy.run_rounds(grid, start(), last=30)
    next(run)
    strategy.finish(["linear"])
    assert strategy.requests.due == {"linear": 0, "deep": 8}
    grid.log.clear()
    for one in islice(run, 6):
        assert one.updated
        assert {task_of(trip.message) for _, trip in strategy.trips.items()} == {"deep"}
    sent = [task_of(message) for what, message, _ in grid.log if what == "sent"]
    assert "linear" not in sent and strategy.facts()["unneeded"] > 0
    assert strategy.requests.buffer("deep") == 4, "twice the requests, twice the buffer"
    strategy.finish(["deep"])
    assert next(run, None) is None, "nothing is left to do"


def test_dynamic_allocation_gives_more_to_what_differs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """v = 9 and 1, 16 requests in quanta of 2: by the square root 12 and 4, by v itself 14.4 and 1.6."""
    monkeypatch.setattr(
        "fedlab.strategies.asynchronous.difficulties.Difficulties.of",
        lambda self, labels: {"linear": 1.0, "deep": 9.0},
    )
    for power, expected in ((0.5, {"linear": 4, "deep": 12}), (1.0, {"linear": 2, "deep": 14})):
        strategy, grid = made(allocation="dynamic", power=power, concurrency=16, cohort=4), Watched()
        list(strategy.run_rounds(grid, start(), last=12))
        assert strategy.requests.due == expected
        when = 24  # 3/4 of 16 requests, for each of two tasks
        assert strategy.requests.history == [(0, {"linear": 8, "deep": 8}), (when, expected)]


def test_what_was_measured_is_the_last_eight_updates() -> None:
    strategy, grid = made(allocation="dynamic"), Watched()
    assert strategy.difficulties.of(["linear"]) is None
    list(strategy.run_rounds(grid, start(), last=16))
    found = strategy.difficulties.of(list(NETWORKS))
    assert found is not None and all(value > 0 for value in found.values())
    assert sum(strategy.requests.due.values()) == 8


@pytest.mark.parametrize("steps", [3, 7, 10])
def test_it_goes_on_in_mid_buffer_to_the_same_bits(steps: int) -> None:
    def run(strategy: FedAST, grid: Watched, arrays: Any, first: int) -> Iterator[Round]:
        return strategy.run_rounds(grid, arrays, first=first, last=14)

    def play(one: Iterator[Round], strategy: FedAST) -> list[State]:
        found = []
        for made_round in one:
            found.append(tensors(made_round.arrays))
            if made_round.number == 9:
                strategy.finish(["linear"])
        return found

    options = {"allocation": "dynamic", "concurrency": 8}
    strategy, grid = made(**options), Watched()
    whole = play(run(strategy, grid, start(), 1), strategy)
    strategy, grid = made(**options), Watched()
    rounds = run(strategy, grid, start(), 1)
    head = []
    for one in islice(rounds, steps):
        head.append(one)
        if one.number == 9:
            strategy.finish(["linear"])
    saved, clock = strategy.snapshot(), grid.snapshot()
    assert sum(map(len, strategy.held.values())) > 0 or len(strategy.trips) > 0
    other, again = made(**options), Watched()
    other.restore(saved)
    again.restore(clock)
    tail = play(run(other, again, head[-1].arrays, steps + 1), other)
    assert len(tail) == 14 - steps
    assert all(same(one, two) for one, two in zip(tail, whole[steps:], strict=True))
    assert other.facts() == strategy_at_the_end(options)


def strategy_at_the_end(options: dict[str, Any]) -> dict[str, Any]:
    strategy, grid = made(**options), Watched()
    for one in strategy.run_rounds(grid, start(), last=14):
        if one.number == 9:
            strategy.finish(["linear"])
    return strategy.facts()


def test_clients_that_fall_silent_are_replaced_and_a_fleet_that_says_nothing_is_given_up() -> None:
    strategy, grid = made(), Watched(dropout=0.3)
    assert sum(one.updated for one in strategy.run_rounds(grid, start(), last=10)) == 10
    strategy, grid = made(), Watched(dropout=0.999999)
    one = next(strategy.run_rounds(grid, start(), last=1))
    assert not one.updated and "32 replies in a row brought nothing: 32 failed" in strategy.why_skipped


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cohort": 3}, "strategy.cohort = 3; expected 2, the buffer that 4 requests make in quanta of 2"),
        ({"quantum": 3, "cohort": 1}, "expected 2, the buffer that 4 requests make in quanta of 3"),
        ({"concurrency": 1, "cohort": 1}, "concurrency = 1; expected at least 2"),
        ({"allocation": "dynamic", "power": float("inf")}, "power = inf"),
        ({"quantum": -1}, "quantum = -1; expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        made(**options)


def test_a_buffer_that_is_too_small_for_the_aggregator_is_refused() -> None:
    servers = both()
    servers["deep"].learner.aggregator = as_aggregator(MultiKrum(f=1))
    with pytest.raises(UsageError, match=r"the aggregator needs \d updates, but a buffer holds 2"):
        made(tasks=servers)


def test_the_checkpoint_of_another_algorithm_is_refused() -> None:
    strategy = made()
    saved = strategy.snapshot()
    saved.values["kind"] = "fedbuff"
    with pytest.raises(DataError, match="another algorithm than fedast"):
        strategy.restore(saved)
