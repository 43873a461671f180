"""Tiny Flower apps in folders: clients train a linear layer, a server averages; and variations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedlab.apps.contract import Ran
from fedlab.apps.folder import AppFolder, read
from fedlab.apps.loading import forget, load
from fedlab.apps.running import run

TASK = """
import torch
from torch import nn
import torch.nn.functional as F

def data(partition):
    draws = torch.Generator().manual_seed(partition)
    return torch.randn(6, 4, generator=draws), torch.arange(6) % 3

def fit(model, partition, lr):
    inputs, targets = data(partition)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for rows in torch.randperm(6).split(2):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
"""
CLIENT = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from {name}.task import fit, nn

app = ClientApp()

@app.train()
def train(message, context):
    partition = context.node_config["partition-id"]
    model = nn.Linear(4, 3)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    {before}
    fit(model, partition, context.run_config["lr"])
    arrays = ArrayRecord(model.state_dict())
    {after}
    metrics = MetricRecord({{"num-examples": 6}})
    return Message(RecordDict({{"arrays": arrays, "metrics": metrics}}), reply_to=message)
"""
SERVER = """
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from {name}.task import nn

app = ServerApp()

@app.main()
def main(grid, context):
    {before}
    model = nn.Linear(4, 3)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=lambda number, arrays: MetricRecord({{"accuracy": number / 4}}),
    )
    {after}
"""
LEGACY_CLIENT = """
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from {name}.task import fit, nn, torch

class Client(NumPyClient):
    def __init__(self, partition, lr):
        self.partition, self.lr = partition, lr
    def fit(self, parameters, config):
        model = nn.Linear(4, 3)
        keys = model.state_dict().keys()
        model.load_state_dict(dict(zip(keys, map(torch.tensor, parameters))))
        fit(model, self.partition, self.lr)
        return [value.numpy() for value in model.state_dict().values()], 6, {{"told": 1.5}}
    def evaluate(self, parameters, config):
        return 0.25 * self.partition, 6, {{"accuracy": 0.5}}

def client_fn(context):
    return Client(context.node_config["partition-id"], context.run_config["lr"]).to_client()

app = ClientApp(client_fn=client_fn)
"""
LEGACY_SERVER = """
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp
from {name}.task import nn

def server_fn(context):
    initial = [value.numpy() for value in nn.Linear(4, 3).state_dict().values()]
    strategy = FedAvg(
        initial_parameters=ndarrays_to_parameters(initial),
        min_available_clients={wanted},
        on_fit_config_fn=lambda number: {{"epochs": number}},
    )
    return ServerAppComponents(
        strategy=strategy, config=ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    )

app = ServerApp(server_fn=server_fn)
"""
CONFIG = "num-server-rounds = 2\nlr = 0.5\n"


def app(folder: Path, name: str, files: Mapping[str, str] | None = None, **lines: str) -> AppFolder:
    """An app whose package is `name`.

    Args:
        files: other modules than the usual ones, by name.
        lines: what its functions do besides: client_before, client_after, server_before, server_after.
    """
    given = {
        place: {when: lines.get(f"{place}_{when}", "pass") for when in ("before", "after")}
        for place in ("client", "server")
    }
    sources = {
        "__init__": "",
        "task": TASK,
        "client_app": CLIENT.format(name=name, **given["client"]),
        "server_app": SERVER.format(name=name, **given["server"]),
        **(files or {}),
    }
    (folder / name).mkdir(parents=True)
    for module, source in sources.items():
        (folder / name / f"{module}.py").write_text(source)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "1"\n[tool.flwr.app.components]\n'
        f'serverapp = "{name}.server_app:app"\nclientapp = "{name}.client_app:app"\n'
        f"[tool.flwr.app.config]\n{CONFIG}"
    )
    return read(folder)


def legacy(folder: Path, name: str, wanted: int = 2) -> AppFolder:
    """The same with a NumPyClient and a strategy of Flower's older server."""
    files = {
        "client_app": LEGACY_CLIENT.format(name=name),
        "server_app": LEGACY_SERVER.format(name=name, wanted=wanted),
    }
    return app(folder, name, files)


@contextmanager
def forgotten(folder: AppFolder) -> Iterator[Any]:
    """The app while it is loaded."""
    apps = load(folder)
    try:
        yield apps
    finally:
        forget(apps, folder)


def ran(folder: AppFolder, **options: Any) -> Ran:
    """The app, loaded, run by three clients and forgotten."""
    with forgotten(folder) as apps:
        return run(apps, folder, **{"supernodes": 3, **options})
