"""fedlab's own clients, whose replies are rows of common tensors, under flwr's strategies and mods."""

import math
import random
from collections.abc import Sequence

import flwr.clientapp.mod as mods
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp, with_mods
from fedlab.runtime import GuardedGrid, SimulationGrid, quiet_logger
from fedlab.runtime.arrays import TensorArray, tensors
from fedlab.strategies import SGD, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.strategies.composition import fedavg
from fedlab.tasks import Task
from fedlab.tasks.datasets.digits import digits
from tests.runtime.test_flower_strategies import CASES, turned_away

OWNERS = [np.arange(c * 15, c * 15 + 10 + c) for c in range(7)]
CONFIG = ClientConfig(batch_size=5, local_epochs=1, learning_rate=0.1)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_logger()


@pytest.fixture(scope="module")
def task() -> Task:
    train, test = digits()
    return Task(train=train, test=test, network=network)


def grid(task: Task, wanted: Sequence[Mod] = ()) -> Grid:
    app: ClientApp = with_mods(CohortApp(task, OWNERS, LocalRule(), CONFIG, seed=1), wanted)
    return GuardedGrid(SimulationGrid(app, 7, chunk=4), rejected=turned_away)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1).double() for name in sorted(state)])


def start(task: Task) -> ArrayRecord:
    return ArrayRecord(task.model(1).state())


@pytest.mark.parametrize("name", CASES)
def test_every_strategy_takes_our_replies(name: str, task: Task) -> None:
    """Two rounds of it move the model, and no client is turned away."""
    make, _, wanted = CASES[name]
    strategy = make()
    strategy.configure_evaluate = lambda *args: []  # type: ignore[method-assign]  # mods are for training
    random.seed(0)
    result = strategy.start(grid(task, wanted), start(task), num_rounds=2)
    before, after = flat(task.model(1).state()), flat(tensors(result.arrays))
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    assert result.train_metrics_clientapp.keys() == {1, 2}


def test_flwrs_fedavg_and_ours_agree(task: Task) -> None:
    """The same clients and weights; flwr sums float32 weights, ours float64 changes."""
    theirs = FedAvg(fraction_evaluate=1.0).start(grid(task), start(task), num_rounds=2)
    strategy = fedavg(
        aggregator=as_aggregator(weighted_mean),
        optimizer=SGD(1.0, 0.0),
        cohort=7,
        seed=1,
        parameters=task.model(1).parameter_names,
    )
    ours = strategy.start(grid(task), start(task), num_rounds=2)
    torch.testing.assert_close(flat(tensors(theirs.arrays)), flat(tensors(ours.arrays)), rtol=0, atol=1e-6)
    found = theirs.evaluate_metrics_clientapp[2]
    assert 0.0 <= float(str(found["accuracy"])) <= 1.0 and math.isfinite(float(str(found["loss"])))


def ask(task: Task, wanted: Sequence[Mod]) -> list[Message]:
    content = RecordDict(
        {"arrays": start(task), "config": ConfigRecord({"server-round": 1, "clipping_norm": 0.05})}
    )
    nodes = grid(task).get_node_ids()
    return grid(task, wanted).send_and_receive([Message(content, node, "train") for node in nodes])


def changes(task: Task, replies: list[Message]) -> torch.Tensor:
    before = flat(task.model(1).state())
    return torch.stack([flat(tensors(reply.content["arrays"])) - before for reply in replies])


@pytest.mark.parametrize("name", mods.__all__)
def test_every_mod_wraps_our_clients(name: str, task: Task) -> None:
    """What clips leaves at most 0.05 of each update, in its direction; the others change nothing."""
    mod = getattr(mods, name)
    mod = mod(0.05, 0.0, 1.0, 1e-5) if name == "LocalDpMod" else mod
    plain, found = changes(task, ask(task, ())), changes(task, ask(task, [mod]))
    assert plain.norm(dim=1).min() > 0.05, "something to clip"
    clips = "clipping" in name or name == "LocalDpMod"
    factor = 0.05 / plain.norm(dim=1, keepdim=True) if clips else 1.0
    torch.testing.assert_close(found, plain * factor, rtol=1e-4, atol=1e-7)


def test_our_replies_are_lazy_until_somebody_asks_for_bytes(task: Task) -> None:
    for reply in ask(task, ()):
        assert all(isinstance(array, TensorArray) for array in reply.content["arrays"].values())
