"""An app whose clients mask their updates, in the shape of Flower's example of secure aggregation."""

from __future__ import annotations

from pathlib import Path

from app_in_folder import LEGACY_CLIENT, app, ran

from fedlab.apps.facts import infer
from fedlab.apps.folder import AppFolder
from fedlab.apps.given import Adapter

MODS = """
from flwr.client.mod import secaggplus_mod
app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
"""
SERVER = """
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from {name}.task import nn

app = ServerApp()

@app.main()
def main(grid, context):
    initial = [value.numpy() for value in nn.Linear(4, 3).state_dict().values()]
    strategy = FedAvg(
        initial_parameters=ndarrays_to_parameters(initial), min_fit_clients=3, fraction_evaluate=0.0
    )
    rounds = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    context = LegacyContext(context=context, config=rounds, strategy=strategy)
    masked = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)
    DefaultWorkflow(fit_workflow=masked)(grid, context)
"""


def masking(folder: Path, name: str) -> AppFolder:
    client = LEGACY_CLIENT.format(name=name).replace("app = ClientApp(client_fn=client_fn)", MODS)
    return app(folder, name, {"client_app": client, "server_app": SERVER.format(name=name)})


def test_four_stages_are_one_round_of_which_the_server_sees_sums(tmp_path: Path) -> None:
    found = ran(masking(tmp_path, "masking"), rounds=2, observe=(1,))
    assert (found.rounds, found.masked, found.failed, found.sights) == (2, 6, 0, [])
    (why,) = infer(found, Adapter()).obstacles
    assert "SecAgg+, 6 replies" in why and "sum" in why
