"""What FedBuff and FedAsync are equal to: FedAvg without stragglers, and event loops of a few lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.clients import ClientConfig
from fedlab.clients.app import CohortApp
from fedlab.clients.rules import LocalRule
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.strategies import SGD, Adam, Composition, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import mean, median, weighted_mean
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.asynchronous.fedasync import fedasync
from fedlab.strategies.asynchronous.staleness import Polynomial
from fedlab.strategies.rounds import rounds
from fedlab.tasks import State
from fedlab.testing.contract import same
from fedlab.testing.federation import owners, small_task
from tests.clients.quadratics import Federation
from tests.strategies.asynchronous.scenes import SEED, Late, event_loop, federation, server

LEARNERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaffold": {"rule": Scaffold()},
    "adam": {"optimizer": Adam(learning_rate=0.1)},
    "median": {"aggregator": as_aggregator(median)},
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("count", "cohort"), [(3, 3), (6, 2), (40, 3)])
def test_without_stragglers_a_buffer_of_all_who_train_is_a_round_of_fedavg(
    name: str, count: int, cohort: int
) -> None:
    """K = M, equal durations: bit for bit, over 25 rounds; also where the population is not listed."""
    options = LEARNERS[name]
    async_, strategy = federation(
        [1.0] * count, buffer=cohort, concurrency=cohort, staleness=Polynomial(), **options
    )
    rule = options.get("rule", LocalRule())
    plain = Federation(rule, clients=[i % 3 for i in range(count)], copies=[1] * count)
    plain.grid = SimulationGrid(plain.app, count, seed=SEED, chunk=3)
    learner = strategy.learner
    plain.strategy = Composition(
        Learner(learner.aggregator, learner.optimizer, ["x"], SEED, server=rule.server),
        Synchronous(cohort, SEED),
    )
    assert async_.path(25) == plain.path(25)
    assert strategy.facts()["staleness"] == [[0, 25 * cohort]]


def images(strategy: Any, number: int, fleet: Any = 5) -> State:
    """A network with batch norm and dropout after so many updates."""
    task, config = small_task(), ClientConfig(batch_size=4, local_epochs=1)
    app = CohortApp(task, owners(task), LocalRule(), config, SEED)
    grid = SimulationGrid(app, fleet, seed=SEED, chunk=2)
    start = array_record(task.model(SEED).state())
    return [tensors(one.arrays) for one in rounds(strategy, grid, start, last=number)][-1]


def test_the_same_for_a_network_with_dropout_and_batch_norm() -> None:
    names = list(small_task().model(SEED).parameter_names)
    learner = Learner(as_aggregator(weighted_mean), SGD(), names, SEED)
    sync = images(Composition(learner, Synchronous(4, SEED)), 6)
    assert same(sync, images(server(buffer=4, concurrency=4, parameters=names), 6))
    assert not same(sync, images(server(buffer=4, concurrency=5, parameters=names), 6))


TIMES = st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.25, 7.0, 0.0]), min_size=1, max_size=6).filter(any)


@settings(max_examples=20, deadline=None)
@given(TIMES, st.integers(1, 8), st.sampled_from([None, 0, 1, 3]))
def test_any_fleet_does_what_an_event_loop_does(times: list[float], buffer: int, most: int | None) -> None:
    """N = M, so that whoever comes back starts again: x ← x + Σ Δ/√(1 + s)/K, ties included."""
    times = [max(one, 0.25) for one in times]
    clients, strategy = federation(
        times, buffer=buffer, concurrency=len(times), staleness=Polynomial(0.5), max_staleness=most
    )

    def step(x: float, held: list[Late]) -> float:
        return x + sum(one.delta / math.sqrt(1 + one.late) for one in held) / buffer

    models, seen = event_loop(times, step, buffer, 12, most)
    assert clients.path(12) == pytest.approx(models, rel=1e-12, abs=1e-12)
    counted = strategy.staleness_seen
    assert sorted(counted.elements()) == sorted(seen)
    assert strategy.discarded == sum(most is not None and late > most for late in seen)


def asynchronous(times: list[float], **options: Any) -> tuple[Federation, Buffered]:
    clients, _ = federation(times, buffer=1, concurrency=1)
    strategy = fedasync(
        aggregator=as_aggregator(mean),
        optimizer=SGD(),
        cohort=1,
        seed=SEED,
        parameters=["x"],
        concurrency=len(times),
        **options,
    )
    assert isinstance(strategy, Buffered)
    clients.strategy = strategy  # type: ignore[assignment]
    return clients, strategy


@pytest.mark.parametrize(
    ("staleness", "weight"),
    [
        ("constant", lambda s: 1.0),
        ({"name": "polynomial", "exponent": 0.5}, lambda s: (s + 1) ** -0.5),
        ({"name": "hinge", "a": 10.0, "b": 4}, lambda s: 1.0 if s <= 4 else 1 / (10 * (s - 4) + 1)),
    ],
)
def test_fedasync_mixes_each_model_in(staleness: Any, weight: Callable[[int], float]) -> None:
    """x ← (1 − α s) x + α s y; the slowest device is 30 versions behind."""
    times = [1.0, 1.1, 0.9, 1.3, 0.7, 9.0]
    clients, strategy = asynchronous(times, mixing=0.6, staleness=staleness)

    def step(x: float, held: list[Late]) -> float:
        (one,) = held
        share = 0.6 * weight(one.late)
        return (1 - share) * x + share * (one.start + one.delta)

    models, seen = event_loop(times, step, 1, 80)
    assert clients.path(80) == pytest.approx(models, rel=1e-12, abs=1e-12)
    assert max(seen) > 20 and sorted(strategy.staleness_seen.elements()) == sorted(seen)


def test_fedasync_with_the_whole_weight_takes_the_clients_model() -> None:
    """α = 1, s constant: x = y. Numbers of binary fractions: x from 0, half of the way to b at each visit."""
    clients, _ = asynchronous([1.0, 2.5, 4.0], mixing=1.0, staleness="constant")

    def step(x: float, held: list[Late]) -> float:
        return held[0].start + held[0].delta

    models, _ = event_loop([1.0, 2.5, 4.0], step, 1, 30)
    assert clients.path(30) == pytest.approx(models, rel=1e-14, abs=1e-14)


def test_a_buffer_of_one_of_equal_weights_adds_each_delta() -> None:
    """FedAsync's delta form: x ← x + γ Δ, Δ measured from the model that the client started from."""
    times = [1.0, 2.5, 4.0]
    clients, _ = federation(times, buffer=1, concurrency=3, optimizer=SGD(learning_rate=0.5))
    models, _ = event_loop(times, lambda x, held: x + 0.5 * held[0].delta, 1, 40)
    assert clients.path(40) == pytest.approx(models, rel=1e-12, abs=1e-12)
