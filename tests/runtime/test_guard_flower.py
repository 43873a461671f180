"""What breaks flwr 1.41, behind the guard: the run goes on, and equals the run without that client.

Five clients; client p adds (p + 1, 2 (p + 1), 3 (p + 1)) to the weights. In each round the last one,
the culprit, sends something else. Where flwr's strategies survive that, they do not notice (Krum and
the median cut it off); where they do not, the reference below says what happens without the guard.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.runtime import SimulationGrid, TappedGrid, quiet_logger
from fedlab.runtime.guard import REJECTED, GuardedGrid

CULPRIT = 4
Fault = Callable[[RecordDict], None]


def weights(*values: float) -> Fault:
    return lambda content: content["arrays"].__setitem__("w", Array(np.array(values)))  # type: ignore[arg-type]


def examples(count: float) -> Fault:
    return lambda content: content["metrics"].__setitem__("num-examples", count)  # type: ignore[arg-type]


def wrong_key(content: RecordDict) -> None:
    record = content["arrays"]
    record["v"] = record.pop("w")  # type: ignore[union-attr]


def wrong_metric(content: RecordDict) -> None:
    content["metrics"]["accuracy"] = 0.5  # type: ignore[index]


FAULTS: dict[str, tuple[Fault, str]] = {
    "NaN": (weights(math.nan, 0, 0), "not-finite"),
    "Inf": (weights(math.inf, 0, 0), "not-finite"),
    "broadcast": (weights(1.0), "shape"),
    "-9 examples": (examples(-9), "num-examples"),
    "NaN examples": (examples(math.nan), "num-examples"),
    "10**12 examples": (examples(10**12), "num-examples"),
    "wrong key": (wrong_key, "keys"),
    "wrong metric": (wrong_metric, "keys"),
}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: flower.FedAvg(fraction_evaluate=0.0),
    "FedMedian": lambda: flower.FedMedian(fraction_evaluate=0.0),
    "Krum": lambda: flower.Krum(fraction_evaluate=0.0, num_malicious_nodes=1),
    "FedAdam": lambda: flower.FedAdam(fraction_evaluate=0.0),
}


def app(fault: Fault | None) -> ClientApp:
    """The culprit's reply is faulty, or (None) it fails in an honest way."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        after = message.content["arrays"]["w"].numpy() + (partition + 1) * np.array([1.0, 2.0, 3.0])
        metrics = MetricRecord({"num-examples": 10 * (partition + 1), "train-loss": 1.0})
        content = RecordDict({"arrays": ArrayRecord({"w": Array(after)}), "metrics": metrics})
        if partition == CULPRIT and fault is None:
            raise RuntimeError("gone")
        if partition == CULPRIT and fault is not None:
            fault(content)
        return Message(content, reply_to=message)

    return client


def run(grid: Grid, strategy: Strategy) -> list[float]:
    quiet_logger()
    random.seed(0)  # flwr draws the order of the clients, and so that of its sums, from there
    result = strategy.start(grid, ArrayRecord({"w": Array(np.zeros(3))}), num_rounds=2)
    return result.arrays["w"].numpy().tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_goes_on_as_if_that_client_had_failed(strategy: str, fault: str) -> None:
    mutate, kind = FAULTS[fault]
    told: list[tuple[int, str]] = []
    guarded = GuardedGrid(
        SimulationGrid(app(mutate), 5),
        rejected=lambda message, reply, kind, reason: told.append((reply.metadata.src_node_id - 2, kind)),
    )
    without = run(SimulationGrid(app(None), 5), STRATEGIES[strategy]())
    assert run(guarded, STRATEGIES[strategy]()) == without
    assert told == [(CULPRIT, kind)] * 2
    assert np.isfinite(without).all()


def test_the_faults_are_real() -> None:
    """Without the guard: NaN in the model, a layer overwritten, the model replaced, the run ended."""
    avg = STRATEGIES["FedAvg"]
    assert np.isnan(run(SimulationGrid(app(FAULTS["NaN"][0]), 5), avg())).any()
    assert np.isnan(run(SimulationGrid(app(FAULTS["NaN"][0]), 5), STRATEGIES["FedMedian"]())).any()
    lonely = run(SimulationGrid(app(FAULTS["10**12 examples"][0]), 5), avg())
    assert np.allclose(lonely, [10.0, 20.0, 30.0], rtol=1e-6), (
        "two rounds of the culprit's 5, and nobody else's"
    )
    assert run(SimulationGrid(app(FAULTS["broadcast"][0]), 5), avg())[0] > 0.0
    for fault in ("wrong key", "wrong metric"):
        with pytest.raises(flower.strategy_utils.InconsistentMessageReplies):
            run(SimulationGrid(app(FAULTS[fault][0]), 5), avg())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_round_without_a_quorum_leaves_the_model_as_it_was(strategy: str) -> None:
    """Four of five replies are valid. A run whose every round is skipped has no result in Flower."""
    grid = GuardedGrid(SimulationGrid(app(FAULTS["NaN"][0]), 5), quorum=5)
    started = STRATEGIES[strategy]()
    result = started.start(grid, ArrayRecord({"w": Array(np.ones(3))}), num_rounds=2)
    assert len(result.arrays) == 0 and not result.train_metrics_clientapp


def test_the_tap_outside_sees_what_the_strategy_sees() -> None:
    seen: list[tuple[int, str | None]] = []

    def watch(message: Message, reply: Message) -> None:
        assert reply.metadata.reply_to_message_id == message.metadata.message_id
        error = reply.error if reply.has_error() else None
        assert error is None or error.code == REJECTED
        seen.append((reply.metadata.src_node_id - 2, error and error.reason.partition(":")[0]))

    for quorum, kind in ((1, None), (5, "quorum")):
        seen.clear()
        grid = TappedGrid(GuardedGrid(SimulationGrid(app(FAULTS["NaN"][0]), 5), quorum=quorum), watch)
        flower.FedAvg(fraction_evaluate=0.0).start(grid, ArrayRecord({"w": Array(np.zeros(3))}), num_rounds=1)
        assert sorted(seen) == [(0, kind), (1, kind), (2, kind), (3, kind), (4, "not-finite")]


def test_deadlines_and_selections_pass_through() -> None:
    """The culprit does not count among the first four valid replies."""
    grid = TappedGrid(GuardedGrid(SimulationGrid(app(FAULTS["NaN"][0]), 5)), lambda message, reply: None)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(3))})})
    messages = [Message(content, dst_node_id=node, message_type="train") for node in (6, 2, 3, 4, 5)]
    replies = grid.send_and_receive(messages, enough=2)
    assert [reply.metadata.src_node_id for reply in replies] == [6, 2, 3] and replies[0].has_error()
    assert grid.send_and_receive(messages, timeout=0.5) == [] and grid.now == 1.5
