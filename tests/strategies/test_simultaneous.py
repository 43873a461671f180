"""Sync-ST: common rounds of several tasks; of one task it is FedAvg."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message

from fedlab.clients.several import task_of
from fedlab.errors import DataError, UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.runtime.devices import SimulatedFleet
from fedlab.strategies import SGD, as_aggregator, fedavg
from fedlab.strategies.aggregators import mean
from fedlab.strategies.rounds import rounds
from fedlab.strategies.simultaneous import SyncST, sync_st
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


def made(**options: Any) -> SyncST:
    settings: dict[str, Any] = {"cohort": 4, "tasks": both()} | options
    strategy = sync_st(
        aggregator=as_aggregator(mean), optimizer=SGD(0.5), seed=7, parameters=["unused"], **settings
    )
    assert isinstance(strategy, SyncST)
    return strategy


def asked(grid: Watched) -> list[list[tuple[str, int]]]:
    """(task, node) of the messages of each round."""
    found: dict[int, list[tuple[str, int]]] = {}
    for what, message, _ in grid.log:
        if what == "sent":
            number = int(str(message.content.config_records["config"]["server-round"]))
            found.setdefault(number, []).append((task_of(message), message.metadata.dst_node_id))
    return list(found.values())


class Leaky(Watched):
    """Cannot send to the first client; like some of Flower's Grids, it leaves the id out."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        _, *others = messages
        return super().push_messages(others)


def test_a_message_that_cannot_be_sent_costs_its_task_one_update() -> None:
    found = list(made().run_rounds(Leaky(), start(), last=2))
    assert [one.train["participants"] for one in found if one.train is not None] == [3, 3]


@pytest.mark.parametrize("over_selection", [1.0, 1.5])
def test_one_task_is_fedavg_bit_for_bit(over_selection: float) -> None:
    """Devices of distinct speeds, so that the first replies do not hang on the order of asking."""
    model = task(NETWORKS["deep"]).model(1)
    common: dict[str, Any] = {
        "aggregator": as_aggregator(mean),
        "optimizer": SGD(0.5),
        "cohort": 4,
        "seed": 7,
        "parameters": model.parameter_names,
        "over_selection": over_selection,
    }
    enough = 4 if over_selection > 1.0 else None
    ends = []
    for strategy in (fedavg(**common), sync_st(**common)):
        grid = SimulationGrid(client_app("deep"), SimulatedFleet(CLIENTS, time=list(TIMES)), chunk=8)
        made_rounds = rounds(strategy, grid, array_record(model.state()), last=5, enough=enough)
        ends.append(([tensors(one.arrays) for one in made_rounds], grid.now))
    assert ends[0][1] == ends[1][1]
    assert all(same(one, other) for one, other in zip(ends[0][0], ends[1][0], strict=True))


def test_a_rounds_clients_are_shared_out_evenly_and_nobody_works_twice() -> None:
    strategy, grid = made(cohort=5), Watched()
    for one in strategy.run_rounds(grid, start(), last=6):
        assert one.updated and one.train is not None and one.train["participants"] == 5
    for messages in asked(grid):
        assert Counter(label for label, _ in messages) == {"linear": 3, "deep": 2}
        assert len({node for _, node in messages}) == 5
    met = {
        node: {label for round in asked(grid) for label, other in round if other == node}
        for node in grid.get_node_ids()
    }
    assert all(labels == set(NETWORKS) for labels in met.values()), "over time each client meets each task"


def test_a_round_ends_when_the_last_task_has_its_updates() -> None:
    """All six clients: the slowest takes 7.9 s, whoever it works for."""
    strategy, grid = made(cohort=6), Watched()
    list(strategy.run_rounds(grid, start(), last=3))
    assert grid.now == pytest.approx(3 * TIMES[-1])


def test_with_over_selection_each_task_goes_on_with_its_own_first_updates() -> None:
    """Six are asked for two and two updates: the round ends with the second reply of the slower three."""
    strategy, grid = made(cohort=4, over_selection=1.5), Watched()
    list(strategy.run_rounds(grid, start(), last=1))
    (messages,) = asked(grid)
    times = {node: TIMES[node - min(grid.get_node_ids())] for node in grid.get_node_ids()}
    second = [sorted(times[node] for other, node in messages if other == label)[1] for label in NETWORKS]
    assert len(messages) == 6 and grid.now == pytest.approx(max(second))
    assert grid.now < TIMES[-1]


def test_a_finished_tasks_clients_work_for_the_others() -> None:
    strategy, grid = made(), Watched()
    run = strategy.run_rounds(grid, start(), last=9)
    first = next(run)
    strategy.finish(["deep"])
    second = next(run)
    assert [Counter(label for label, _ in one) for one in asked(grid)] == [
        {"linear": 2, "deep": 2},
        {"linear": 4},
    ]
    before, after = tensors(first.arrays), tensors(second.arrays)
    unchanged = {name for name in after if same({"": before[name]}, {"": after[name]})}
    assert unchanged == {name for name in after if name.startswith("deep/")}
    strategy.finish(["linear"])
    assert next(run, None) is None


def test_a_task_without_enough_updates_keeps_its_model() -> None:
    """A deadline of two seconds: the two fastest of six clients answer, whatever they work for."""
    strategy, grid = made(cohort=6, quorum=2), Watched()
    skipped = 0
    for one in strategy.run_rounds(grid, start(), last=6, timeout=2.0):
        took = one.train["participants"] if one.train is not None else 0
        assert took in (0, 2), "both for one task, or one for each"
        skipped += not one.updated
        assert one.updated or "1 usable updates, of 2 that are needed" in strategy.why_skipped
    assert 0 < skipped < 6


def test_it_goes_on_to_the_same_bits() -> None:
    strategy, grid = made(), Watched()
    whole = [tensors(one.arrays) for one in strategy.run_rounds(grid, start(), last=6)]
    strategy, grid = made(), Watched()
    *_, last = strategy.run_rounds(grid, start(), last=3)
    other, again = made(), Watched()
    other.restore(strategy.snapshot())
    again.restore(grid.snapshot())
    tail = [tensors(one.arrays) for one in other.run_rounds(again, last.arrays, first=4, last=6)]
    assert all(same(one, two) for one, two in zip(tail, whole[3:], strict=True))


def test_too_small_a_cohort_and_another_algorithms_checkpoint_are_refused() -> None:
    with pytest.raises(
        UsageError, match="shared by 2 tasks, leaves one of them 0 clients; expected at least 1"
    ):
        made(cohort=1)
    with pytest.raises(UsageError, match="there is no task 'other'; expected one of linear, deep"):
        made().finish(["other"])
    saved = made().snapshot()
    saved.values.clear()
    with pytest.raises(DataError, match="another algorithm than sync-st"):
        made().restore(saved)
