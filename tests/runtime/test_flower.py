"""Unmodified Flower on our Grid, and the private names of flwr that we rest on."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedlab.runtime import SimulationGrid, quiet_logger
from fedlab.runtime._flower import RUN_ID, enter_run, number
from tests.runtime.apps import adding_app, train_messages


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_logger()


def test_serverapp_clientapp_and_fedavg_run_unmodified() -> None:
    """Three rounds of +1, +2, +3 and +4 on average add 2.5 each; round 1 is not under-sampled."""
    app, results = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
        results.append(strategy.start(grid, ArrayRecord({"w": Array(np.zeros(2))}), num_rounds=3))

    grid = SimulationGrid(adding_app(), 4)
    app(grid, Context(RUN_ID, 1, {}, RecordDict(), {}))
    assert results[0].arrays["w"].numpy().tolist() == [7.5, 7.5]
    assert [m["calls"] for m in results[0].train_metrics_clientapp.values()] == [1.0, 2.0, 3.0]
    assert results[0].evaluate_metrics_clientapp[3]["accuracy"] == 0.5
    assert grid.now == 6.0, "three rounds of training and evaluation, one virtual second each"


def test_the_private_names_of_flwr_are_where_we_expect_them() -> None:
    run = enter_run()
    assert run.run_id == RUN_ID
    message = train_messages([2])[0]
    assert message.metadata.message_id == "" and message.metadata.run_id == RUN_ID
    number(message, "m7")
    assert message.metadata.message_id == "m7"
    assert Message(message.content, reply_to=message).metadata.reply_to_message_id == "m7"


def test_flower_is_quiet() -> None:
    quiet_logger()
    assert not logging.getLogger("flwr").isEnabledFor(logging.INFO)
