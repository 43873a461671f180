"""Rules and networks that remember: the halves of a memory stay in step whatever is lost or late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import MEMORY, CohortApp
from fedlab.clients.rules.feddyn import FedDyn
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import FedlabError, PluginError, UsageError
from fedlab.runtime import GuardedGrid, SimulationGrid, TappedGrid
from fedlab.runtime.arrays import UPLINK, array_record, tensors
from fedlab.runtime.devices import SimulatedFleet
from fedlab.strategies import as_aggregator
from fedlab.strategies.aggregators import Updates, mean
from fedlab.strategies.asynchronous.fedasync import Mixing
from fedlab.strategies.asynchronous.staleness import Constant, Hinge, Polynomial, Threshold
from fedlab.strategies.learner import Arrival
from fedlab.strategies.rounds import rounds
from fedlab.tasks import Task
from fedlab.testing.federation import owners, small_task
from tests.clients.quadratics import OPTIMUM
from tests.strategies.asynchronous.scenes import SEED, federation, half_normal, server

NINE = SimulatedFleet(9, time=half_normal(9), dropout=0.3)


@pytest.mark.parametrize("options", [{}, {"max_staleness": 1}, {"staleness": Polynomial(1.0)}])
def test_scaffolds_mean_of_control_variates_is_the_servers(options: dict[str, Any]) -> None:
    """c = Σ c_i / N over what has counted, with a third of the trips lost and others thrown away.

    A client whose update did not count starts from what it was before. So c_i of a client whose last trip
    counted is what it remembers; of any other, the sum of the changes that it sent and that counted.
    """
    clients, strategy = federation(NINE, Scaffold(), buffer=3, concurrency=5, **options)
    sums = dict.fromkeys(range(2, 11), 0.0)

    def combined(arrivals: Sequence[Arrival], delta: Any, model: Any, round: int) -> None:
        for one in arrivals:
            sums[one.node] += float(tensors(one.reply.content[UPLINK])["control/x"])  # type: ignore[arg-type]

    strategy.learner.combined = combined
    counted_since_asked: dict[int, float] = {}
    for _ in range(60):
        clients.path(1)
        assert clients.server("control") == pytest.approx(sum(sums.values()) / 9, rel=1e-9, abs=1e-12)
    held = {one.trip.node for one in strategy.held} | {trip.node for _, trip in strategy.trips.items()}
    for node, since in sums.items():
        if node not in held and not strategy._out_of_step.since(node)[0]:
            counted_since_asked[node] = since
            assert clients.memory("control")[node - 2] == pytest.approx(since, rel=1e-9, abs=1e-12)
    assert counted_since_asked, "somebody's last update has counted, and it is idle"


@pytest.mark.parametrize("rule", [Scaffold(), FedDyn(alpha=8.0)], ids=["scaffold", "feddyn"])
def test_with_drop_outs_and_stale_updates_the_optimum_is_found(rule: LocalRule) -> None:
    """Σ ab / Σ a, which FedAvg's fixed point is not: a client that was lost must forget what it did.

    The models of a fixed point are all the same, so staleness changes nothing there; everybody must count
    from time to time, or its gradient is missing from the sum.
    """
    clients, strategy = federation(NINE, rule, buffer=2, concurrency=6, max_staleness=3)
    assert clients.after(600) == pytest.approx(OPTIMUM, abs=1e-6)
    assert strategy.discarded > 80


def test_a_memory_that_did_not_forget_would_be_out_of_step() -> None:
    """The same without a word to the clients, of whose updates many are too late: the test above can fail."""
    clients, strategy = federation(NINE, Scaffold(), buffer=2, concurrency=6, max_staleness=3)
    strategy._out_of_step.matters = False
    assert abs(clients.after(400) - OPTIMUM) > 1e-3


@pytest.mark.parametrize(
    "staleness", [Polynomial(), Threshold(cutoff=4, value=0.5), Hinge(), Mixing(0.6, Constant())]
)
def test_feddyn_cannot_count_stale_updates_less(staleness: Any) -> None:
    """Its server adds up the same updates as its clients do. Only weights that an update can have matter."""
    with pytest.raises(UsageError, match='choose staleness = "constant"'):
        federation(NINE, FedDyn(), buffer=3, concurrency=4, staleness=staleness)
    federation(NINE, FedDyn(), buffer=3, concurrency=4, staleness=Hinge(b=4), max_staleness=4)


def test_a_buffer_that_brought_no_model_is_forgotten_by_its_clients() -> None:
    """An aggregator that fails in every second version: SCAFFOLD finds its optimum all the same. (A client
    that is asked again while its update lies in a buffer that fails later has gone on from it: none here.)"""

    class Moody:
        def aggregate(self, updates: Updates, state: dict[str, Any]) -> Any:
            if updates.round % 2:
                raise PluginError("not today")
            return updates.deltas.mean(0), state

    clients, strategy = federation([1.0] * 3, Scaffold(), buffer=3, concurrency=3, aggregator=Moody())
    skipped = 0
    for one in rounds(strategy, clients.grid, clients.arrays, last=200):
        skipped += not one.updated
        clients.arrays = one.arrays
    assert skipped == 100
    assert float(tensors(clients.arrays)["x"]) == pytest.approx(OPTIMUM, abs=1e-6)


class Broken(CohortApp):
    """Client 1's updates are not finite."""

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        replies = super().run_cohort(messages, contexts)
        for reply in replies:
            if reply.metadata.src_node_id == 3:
                state = tensors(reply.content["arrays"])  # type: ignore[arg-type]
                bad = {name: value.clone().float() * float("nan") for name, value in state.items()}
                reply.content["arrays"] = array_record(bad)
        return replies


def images(app: type[CohortApp] = CohortApp) -> tuple[SimulationGrid, Any, list[str], Task]:
    task = small_task()
    config = ClientConfig(batch_size=4, local_epochs=1)
    made = app(task, owners(task), LocalRule(), config, SEED)
    grid = SimulationGrid(made, SimulatedFleet(5, time=[1.0, 2.2, 0.6, 1.7, 3.1]), seed=SEED, chunk=3)
    model = task.model(SEED)
    return grid, array_record(model.state()), list(model.parameter_names), task


def test_updates_that_are_not_finite_end_the_run_unless_a_guard_turns_them_away() -> None:
    grid, start, names, _ = images(Broken)
    with pytest.raises(FedlabError, match=r"nodes 3 sent updates with NaN .*training diverged"):
        list(rounds(server(buffer=2, concurrency=4, parameters=names), grid, start, last=12))
    grid, start, names, _ = images(Broken)
    turned: list[int] = []
    guard = GuardedGrid(
        grid, uplinks=(), rejected=lambda message, reply, *why: turned.append(reply.metadata.src_node_id)
    )
    tap = TappedGrid(guard, lambda message, reply: None)
    strategy = server(buffer=2, concurrency=4, parameters=names)
    made = list(rounds(strategy, tap, start, last=12))
    assert all(one.updated for one in made) and set(turned) == {3} and len(turned) > 1
    waiting = len(strategy.trips) - len(strategy._arrived)
    assert len(tap._open) == len(guard._open) == waiting, "nothing is kept of trips that are over"
    assert not grid._contexts or all(MEMORY not in one.state for one in grid._contexts.values())


def test_batch_norm_statistics_follow_the_clients() -> None:
    """They take no optimizer step and are averaged: finite, and moved."""
    grid, start, names, _ = images()
    strategy = server(buffer=2, concurrency=4, parameters=names, staleness=Polynomial())
    *_, last = rounds(strategy, grid, start, last=15)
    before, after = tensors(start), tensors(last.arrays)
    kept = [name for name in before if name not in names]
    assert len(kept) == 2 and all(bool(torch.isfinite(after[name]).all()) for name in kept)
    assert not any(torch.equal(before[name], after[name]) for name in kept)


def test_mean_of_the_paper_counts_clients_alike() -> None:
    clients, _ = federation(
        [1.0, 1.0], buffer=2, concurrency=2, copies=(1, 7), aggregator=as_aggregator(mean)
    )
    alike, _ = federation([1.0, 1.0], buffer=2, concurrency=2, copies=(1, 1), aggregator=as_aggregator(mean))
    assert clients.path(5) == pytest.approx(alike.path(5), rel=1e-12)
