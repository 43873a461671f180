"""A scenario as a Flower app: `flwr run` executes it on Flower's own engine, or on real SuperNodes.

The ServerApp is `fedlab.run` on a Grid that is not ours; the ClientApp is whatever client the message
names. Each message says which scenario and which cell it belongs to, so that nodes need no file and
never disagree with the server. Data come from the scenario on every node, so the truth is known and
attacks can be scored; nodes with data of their own need a ClientApp of their own.

`pyproject.toml` names both apps and the keys of the run's configuration ([tool.flwr.app]).
"""

from __future__ import annotations

import functools
import shlex
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlab import __version__
from fedlab.errors import UsageError
from fedlab.experiment.cells import Cell
from fedlab.experiment.setup import set_up
from fedlab.runtime import RosterGrid, bundle_of, enrol, single_thread, tell_partition
from fedlab.runtime.roster import ACTION
from fedlab.scenario import Scenario, load, resolved_toml, shipped
from fedlab.terminal import Plain

SCENARIO, CELL, VERSION = "fedlab-scenario", "fedlab-cell", "fedlab-version"
"""Keys of a message's "config" that tell a client what it is part of."""
OWNER = "fedlab.cell"
"""Key in `Context.state` of the cell whose memory stands there."""

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run every cell of the scenario on `grid`, then the attacks in this process, then the report."""
    from fedlab.experiment import run  # a client, which starts anew for each message, does without

    config = {key: str(value) for key, value in context.run_config.items()}
    scenario = read(config, bundle_of(grid.run))
    nodes = enrol(grid, scenario.clients.count)

    def flower(cell: Cell) -> Grid:  # the report names it
        return RosterGrid(grid, nodes, instructions(scenario, cell))

    progress = Plain(sys.stdout)
    if scenario.devices != type(scenario.devices)():
        progress.message(
            "the scenario's [devices] are not simulated here: nodes take the time that they take"
        )
    run(scenario, out=config.get("out") or None, grid=flower, progress=progress, command="flwr run")


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train as a client of the cell that the message names."""
    return _answer(message, context)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate as a client of the cell that the message names."""
    return _answer(message, context)


@client_app.query()
def query(message: Message, context: Context) -> Message:
    """Answer as a client of the cell that the message names: what a defense's protocol asks."""
    return _answer(message, context)


client_app.query(ACTION)(tell_partition)


def read(config: Mapping[str, str], bundle: Path | None) -> Scenario:
    """The scenario that a run's configuration names: a shipped one, a file in the bundle, or any file.

    Raises:
        ScenarioError: every mistake in it.
    """
    name = config.get("scenario", "quickstart")
    inside = None if bundle is None or name in shipped() else bundle / name
    found = inside if inside is not None and inside.is_file() else name
    # Ray may belong to Flower's engine in this process; what is left for an executor are the attacks.
    return load(found, [*shlex.split(config.get("set", "")), "runtime.executor=inline"])


def instructions(scenario: Scenario, cell: Cell) -> dict[str, str]:
    """What a message must say for a node to know what to do; noise for real clients is no simulation's."""
    if scenario.privacy.secure_rng is None:
        privacy = scenario.privacy.model_copy(update={"secure_rng": True})
        scenario = scenario.model_copy(update={"privacy": privacy})
    return {SCENARIO: resolved_toml(scenario), CELL: cell.name, VERSION: __version__}


def _answer(message: Message, context: Context) -> Message:
    told = message.content.config_records["config"]
    if told.get(VERSION) != __version__:
        theirs = str(told.get(VERSION, "no version"))
        raise UsageError(
            f"the server runs fedlab {theirs}, this node {__version__}; install the same version"
        )
    _own_memory(context, str(told[CELL]))
    with single_thread():  # more would sum in another order than a simulation does
        return _clients(str(told[SCENARIO]), str(told[CELL]))(message, context)


def _own_memory(context: Context, cell: str) -> None:
    """Forget what belongs to another cell: Flower keeps one context per node for the whole run, and what
    a client learned without a defense must not go into training with one."""
    owner = context.state.config_records.get(OWNER, ConfigRecord()).get("name")
    if owner != cell:
        context.state.clear()
        context.state[OWNER] = ConfigRecord({"name": cell})


@functools.lru_cache(maxsize=1)
def _clients(scenario: str, cell: str) -> ClientApp:
    """The clients of one cell, built once per process."""
    setup = set_up(load(tomllib.loads(scenario)), None, None)
    mine = {one.name: one for one in setup.cells}[cell]
    return setup.parts(mine).app
