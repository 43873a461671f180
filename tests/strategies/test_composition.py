"""The composed strategy: what it averages, whom it believes, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import FedlabError
from fedlab.runtime import SimulationGrid
from fedlab.runtime._flower import error_reply
from fedlab.runtime.arrays import SERVER, UPLINK, array_record, tensors
from fedlab.strategies import (
    SGD,
    Adagrad,
    Adam,
    Composition,
    Learner,
    Momentum,
    ServerOptimizer,
    Synchronous,
    Yogi,
    as_aggregator,
    fedavg,
)
from fedlab.strategies.aggregators import weighted_mean
from fedlab.tasks import State
from tests.runtime.apps import adding_app

START = {
    "w": np.array([1.0, 2.0], np.float32),
    "index": np.arange(3, dtype=np.int64),
    "mean": np.zeros(1, np.float32),
}


def strategy_and_messages() -> tuple[Composition, list[Message]]:
    strategy = fedavg(
        aggregator=as_aggregator(weighted_mean), optimizer=SGD(), cohort=3, seed=0, parameters=["w"]
    )
    assert isinstance(strategy, Composition)
    grid = SimulationGrid(adding_app(), 3)
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    return strategy, list(strategy.configure_train(1, arrays, ConfigRecord(), grid))


def reply(
    message: Message, w: list[float], examples: int, mean: float = 0.0, loss: float | None = 1.0
) -> Message:
    arrays = {"w": np.array(w, np.float32), "index": START["index"], "mean": np.array([mean], np.float32)}
    metrics: dict[str, float] = {"num-examples": examples} | ({} if loss is None else {"train-loss": loss})
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
            "metrics": MetricRecord(dict(metrics)),
        }
    )
    return Message(content, reply_to=message)


def test_the_weighted_mean_of_what_arrived_in_any_order() -> None:
    """Weights 1 and 3 of (5, 2) and (1, 6): (1*5 + 3*1)/4 = 2, (2 + 18)/4 = 5; means 8 and 0 give 2."""
    strategy, messages = strategy_and_messages()
    answers = [reply(messages[0], [5.0, 2.0], 1, mean=8.0, loss=3.0), reply(messages[2], [1.0, 6.0], 3)]
    answers.append(error_reply(messages[1], "broken"))
    for order in (answers, answers[::-1]):
        arrays, metrics = strategy.aggregate_train(1, order)
        assert arrays is not None and metrics is not None
        assert arrays["w"].numpy().tolist() == [2.0, 5.0] and arrays["mean"].numpy().tolist() == [2.0]
        assert metrics["participants"] == 2 and metrics["train-loss"] == 1.5
        assert arrays["index"].numpy().tolist() == [0, 1, 2], "integers that all clients agree on stay"


def test_integers_stay_themselves_under_any_weights() -> None:
    strategy, messages = strategy_and_messages()
    for weights in [(1, 3, 7), (3, 3, 3), (49, 5, 13)]:
        answers = [reply(m, [0.0, 0.0], n) for m, n in zip(messages, weights, strict=True)]
        arrays, _ = strategy.aggregate_train(1, answers)
        assert arrays is not None and arrays["index"].numpy().tolist() == [0, 1, 2]


def test_a_figure_that_not_every_client_sent_is_not_averaged() -> None:
    strategy, messages = strategy_and_messages()
    _, metrics = strategy.aggregate_train(
        1, [reply(messages[0], [0, 0], 1), reply(messages[1], [0, 0], 1, loss=None)]
    )
    assert metrics is not None and "train-loss" not in metrics


def test_a_round_without_a_valid_reply_leaves_the_model_alone() -> None:
    strategy, messages = strategy_and_messages()
    assert strategy.aggregate_train(1, [error_reply(m, "broken") for m in messages]) == (None, None)
    assert strategy.aggregate_train(1, []) == (None, None)


def test_divergence_is_called_divergence() -> None:
    strategy, messages = strategy_and_messages()
    with pytest.raises(FedlabError, match=r"nodes 3 sent updates with NaN .* round 1: training diverged"):
        strategy.aggregate_train(1, [reply(messages[0], [0, 0], 1), reply(messages[1], [float("nan"), 0], 1)])
    huge = float(torch.finfo(torch.float32).max)
    strategy.learner.optimizer = SGD(learning_rate=10.0)
    with pytest.raises(FedlabError, match="left the range"):
        strategy.aggregate_train(1, [reply(messages[0], [huge, 0.0], 1)])


def test_records_go_by_kind_not_by_name() -> None:
    """What a client calls its records must not end the run."""
    strategy, messages = strategy_and_messages()
    answers = [reply(message, [5.0, 2.0], 1) for message in messages]
    answers[0].content = RecordDict({"x": answers[0].content["arrays"], "y": answers[0].content["metrics"]})
    arrays, _ = strategy.aggregate_train(1, answers)
    assert arrays is not None and arrays["w"].numpy().tolist() == [5.0, 2.0]
    del answers[0].content["x"]
    with pytest.raises(FedlabError, match="node 2 sent 0 ArrayRecords; expected one"):
        strategy.aggregate_train(1, answers)


def rounds(strategy: Composition, state: State, first: int, last: int) -> list[State]:
    """Rounds on quadratics: client i's update is (b_i - w) / 2, and its uplink is i."""
    grid, made = SimulationGrid(adding_app(), 3), []
    for number in range(first, last + 1):
        messages = list(strategy.configure_train(number, array_record(state), ConfigRecord(), grid))
        answers = []
        for message in messages:
            client = message.metadata.dst_node_id
            moved = array_record({"w": state["w"] + (client - state["w"]) / 2})
            beside = array_record({"control/w": torch.full_like(state["w"], client)})
            metrics = MetricRecord({"num-examples": client, "steps": 2})
            content = RecordDict({"arrays": moved, "metrics": metrics, UPLINK: beside})
            answers.append(Message(content, reply_to=message))
        arrays, _ = strategy.aggregate_train(number, answers)
        assert arrays is not None
        state = tensors(arrays)
        made.append(state)
    return made


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.5), Momentum(), Adagrad(), Adam(), Yogi()])
def test_a_snapshot_holds_all_that_the_next_round_depends_on(optimizer: ServerOptimizer) -> None:
    """Put back after round 2, a strategy goes on as one that was left alone; one that forgot does not."""

    def strategy() -> Composition:
        learner = Learner(as_aggregator(weighted_mean), optimizer, ["w"], 0, server=Scaffold.server)
        return Composition(learner, Synchronous(3, seed=0))

    start = {"w": torch.tensor([1.0, -2.0])}
    alone, stopped, resumed = strategy(), strategy(), strategy()
    whole = rounds(alone, start, 1, 4)
    after = rounds(stopped, start, 1, 2)[-1]
    resumed.restore(stopped.snapshot())
    rest = rounds(resumed, after, 3, 4)
    assert [one["w"].tolist() for one in rest] == [one["w"].tolist() for one in whole[2:]]
    found = [one.learner.server_state for one in (alone, resumed)]
    assert found[0] is not None and found[1] is not None
    assert torch.equal(found[0]["control"], found[1]["control"])
    forgetful = rounds(strategy(), after, 3, 4)
    assert forgetful[-1]["w"].tolist() != rest[-1]["w"].tolist()


def test_the_control_variate_is_told_and_moves_by_the_mean_of_the_uplinks() -> None:
    """Clients 2, 3 and 4 of three send 2, 3 and 4: c is 3 after the first round, 6 after the second."""
    learner = Learner(as_aggregator(weighted_mean), SGD(), ["w"], 0, server=Scaffold.server)
    strategy = Composition(learner, Synchronous(3, seed=0))
    assert strategy.uplinks == ("control/w",)
    state = rounds(strategy, {"w": torch.zeros(2)}, 1, 2)[-1]
    grid = SimulationGrid(adding_app(), 3)
    (message, *_) = strategy.configure_train(3, array_record(state), ConfigRecord(), grid)
    assert message.content[SERVER]["control/w"].numpy().tolist() == [6.0, 6.0]
