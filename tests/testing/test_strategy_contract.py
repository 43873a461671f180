"""check_strategy: Flower's strategies and fedlab's compositions pass; planted bugs are named."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedYogi, Krum

from fedlab.snapshot import Snapshot
from fedlab.strategies import Composition, Learner, Synchronous, fedavg
from fedlab.strategies.asynchronous import Buffered, fedasync, fedbuff
from fedlab.strategies.asynchronous.buffered import Held
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Constant
from fedlab.strategies.asynchronous.trips import Trip
from fedlab.strategies.sampling import uniform
from fedlab.testing import ContractError, check_strategy


@pytest.mark.parametrize(
    "good", [FedAvg, FedAvg(fraction_train=0.5), FedAdam, FedMedian, FedYogi, Krum, fedavg]
)
def test_flowers_strategies_and_compositions_keep_the_contract(good: Any) -> None:
    check_strategy(good)


def two_at_a_time(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: Any) -> Any:
    parts = {"aggregator": aggregator, "optimizer": optimizer, "seed": seed, "parameters": parameters}
    return fedbuff(**parts, cohort=2, concurrency=4, staleness="polynomial")


def one_by_one(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: Any) -> Any:
    parts = {"aggregator": aggregator, "optimizer": optimizer, "seed": seed, "parameters": parameters}
    return fedasync(**parts, cohort=1, concurrency=3)


@pytest.mark.parametrize("good", [two_at_a_time, one_by_one])
def test_asynchronous_strategies_keep_it_too(good: Any) -> None:
    check_strategy(good)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("good", [fedavg, two_at_a_time])
def test_a_strategy_comes_to_the_same_on_ray(good: Any) -> None:
    check_strategy(good, ray=True)


class Counting(Buffered):
    """Counts each update less than the one before it, and forgets how many there were."""

    seen = 0

    def judged(self, trip: Trip, reply: Message, round: int) -> Held | None:
        self.seen += 1
        return Held(trip, reply, 1.0 / self.seen)


class Unordered(Buffered):
    """Takes what it likes: no seed reaches it."""

    def judged(self, trip: Trip, reply: Message, round: int) -> Held | None:
        return Held(trip, reply, random.SystemRandom().random())


class Refusing(Buffered):
    def judged(self, trip: Trip, reply: Message, round: int) -> Held | None:
        return None


class Full(Buffered):
    """Asks everybody once, and then nobody."""

    def room(self, round: int) -> int:
        return 0 if self.trips.taken else super().room(round)


def buffered(kind: type[Buffered]) -> Any:
    def make(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: Any) -> Buffered:
        learner = Learner(aggregator, optimizer, parameters, seed)
        recruiting = Recruiting(uniform, seed)
        return kind(learner, recruiting, buffer=2, concurrency=4, staleness=Constant())

    return make


def changed(reply: tuple[Any, Any], change: Any) -> tuple[ArrayRecord, MetricRecord]:
    state = {name: change(torch.from_numpy(array.numpy())) for name, array in reply[0].items()}
    return ArrayRecord(state), reply[1]


class Flat(FedAvg):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return changed(super().aggregate_train(server_round, replies), lambda value: value.flatten())


class Renamed(FedAvg):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({f"model.{n}": torch.from_numpy(a.numpy()) for n, a in arrays.items()}), metrics


class Nothing(FedAvg):
    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return None, None


class Unseeded(FedAvg):
    """Draws from the system: no seed reaches it."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        scale = 1.0 + random.SystemRandom().random()
        return changed(super().aggregate_train(server_round, replies), lambda value: value * scale)


class Strangers(FedAvg):
    def configure_train(self, server_round: int, arrays: Any, config: ConfigRecord, grid: Grid) -> Any:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        return [Message(one.content, dst_node_id=12345, message_type="train") for one in messages]


class Forgetful(Composition):
    """Has a snapshot, in which what it remembers is missing."""

    rounds = 0

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.rounds += 1
        scale = 1.0 / self.rounds
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        return changed((arrays, metrics), lambda value: value if value.ndim == 0 else value * scale)

    def snapshot(self) -> Snapshot:
        return super().snapshot()


def forgetful(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: Any) -> Composition:
    return Forgetful(Learner(aggregator, optimizer, parameters, seed), Synchronous(cohort, seed))


BUGS: dict[str, tuple[Any, str]] = {
    "no strategy": (7, "strategy is a int; expected a Flower Strategy"),
    "makes none": (dict.fromkeys, "cannot be called|made a|signature"),
    "shape": (Flat(fraction_evaluate=0.0), r"the model after round 1: .*: got \(128,\); expected \(8, 16\)"),
    "names": (Renamed(fraction_evaluate=0.0), "the model after round 1: names: got .*model.1.bias"),
    "no model": (Nothing, "round 1 of a small federation left the model as it was"),
    "unseeded": (Unseeded, "the same rounds again: got other bits"),
    "strangers": (Strangers, "round 1 of a small federation raised UsageError: no node 12345"),
    "buffer's snapshot": (buffered(Counting), "go on from a checkpoint: got other bits"),
    "buffer's draws": (buffered(Unordered), "the same rounds again: got other bits"),
    "refuses all": (buffered(Refusing), "left the model as it was: .* too stale"),
    "asks nobody": (buffered(Full), "round 3 of a small federation"),
    "snapshot": (forgetful, "interrupted after the first, and go on from a checkpoint: got other bits"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_of_a_strategy_is_named(bug: str) -> None:
    strategy, told = BUGS[bug]
    with pytest.raises(ContractError, match=told):
        check_strategy(strategy)
