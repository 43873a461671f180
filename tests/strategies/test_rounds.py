"""The round loop: the same results as Flower's own, from any round to any other."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy

from fedlab.runtime import SimulationGrid
from fedlab.runtime.devices import SimulatedFleet
from fedlab.strategies.rounds import Round, rounds


def app() -> ClientApp:
    """Client i of n adds i + server-round to each weight, and reports its weight in metrics."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        number = int(str(message.content.config_records["config"]["server-round"]))
        new = message.content.array_records["arrays"]["w"].numpy() + client + number
        metrics = MetricRecord({"num-examples": client + 1, "train-loss": float(client)})
        content = {"arrays": ArrayRecord({"w": Array(new)}), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loss = float(message.content.array_records["arrays"]["w"].numpy().sum())
        metrics = MetricRecord({"num-examples": 1, "eval-loss": loss})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return made


def start() -> ArrayRecord:
    return ArrayRecord({"w": Array(np.zeros(3))})


def strategy(kind: type[FedAvg]) -> FedAvg:
    random.seed(7)  # from which Flower draws the order of its clients
    return kind(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=3)


def weights(arrays: ArrayRecord) -> list[float]:
    return [float(value) for value in arrays["w"].numpy()]


@pytest.mark.parametrize("kind", [FedAvg, FedAdam])
def test_the_results_are_those_of_flowers_own_loop(kind: type[FedAvg]) -> None:
    theirs = strategy(kind).start(SimulationGrid(app(), 3), start(), num_rounds=3, timeout=60.0)
    mine = list(rounds(strategy(kind), SimulationGrid(app(), 3), start(), last=3, timeout=60.0))
    assert [one.number for one in mine] == [1, 2, 3] and all(one.updated for one in mine)
    assert weights(mine[-1].arrays) == weights(theirs.arrays)
    assert {one.number: one.train for one in mine} == theirs.train_metrics_clientapp
    assert {one.number: one.evaluate for one in mine} == theirs.evaluate_metrics_clientapp


def test_two_halves_are_the_whole() -> None:
    whole = list(rounds(strategy(FedAvg), SimulationGrid(app(), 3), start(), last=4))
    first = list(rounds(strategy(FedAvg), SimulationGrid(app(), 3), start(), last=2))
    state = random.getstate()
    again = strategy(FedAvg)
    random.setstate(state)
    second = list(rounds(again, SimulationGrid(app(), 3), first[-1].arrays, first=3, last=4))
    assert [weights(one.arrays) for one in first + second] == [weights(one.arrays) for one in whole]
    # Weights 1, 2, 3 average the steps 0, 1, 2 to 8/6; and the number of the round is added.
    assert weights(whole[0].arrays) == pytest.approx([8 / 6 + 1] * 3)
    assert list(rounds(strategy(FedAvg), SimulationGrid(app(), 3), start(), first=3, last=2)) == []


class Scripted(Strategy):
    """Writes down what happens; makes no model in round 2."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def summary(self) -> None: ...

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        self.log.append(f"train {weights(arrays)[0]:g}")
        content = RecordDict(
            {"arrays": arrays, "config": ConfigRecord({**config, "server-round": server_round})}
        )
        return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.log.append(f"aggregate {len(list(replies))}")
        made = None if server_round == 2 else ArrayRecord({"w": Array(np.full(3, float(server_round)))})
        return made, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        self.log.append(f"evaluate {weights(arrays)[0]:g}")
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None


def test_no_new_model_keeps_the_old_one_and_received_comes_before_anything_is_made() -> None:
    scripted = Scripted()

    def received(number: int) -> None:
        scripted.log.append(f"received {number}")

    found: list[Round] = list(rounds(scripted, SimulationGrid(app(), 3), start(), last=3, received=received))
    assert scripted.log == [
        *("train 0", "received 1", "aggregate 3", "evaluate 1"),
        *("train 1", "received 2", "aggregate 3", "evaluate 1"),
        *("train 1", "received 3", "aggregate 3", "evaluate 3"),
    ]
    assert [one.updated for one in found] == [True, False, True]
    assert [weights(one.arrays)[0] for one in found] == [1.0, 1.0, 3.0]


def test_a_round_goes_on_with_enough_replies_or_at_the_deadline() -> None:
    fleet = SimulatedFleet(3, time=[1.0, 2.0, 5.0])
    for options, replies, seconds in (
        ({"enough": 2}, 2, 2.0),  # the second of three arrives at 2 s
        ({"timeout": 1.5}, 1, 1.5),
        ({}, 3, 5.0),
    ):
        scripted, grid = Scripted(), SimulationGrid(app(), fleet)
        list(rounds(scripted, grid, start(), last=1, **options))  # type: ignore[arg-type]
        assert scripted.log[1] == f"aggregate {replies}" and grid.now == seconds
