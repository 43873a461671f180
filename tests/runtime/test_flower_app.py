"""fedlab as a Flower app, in one process: tests/deployment does the same with Flower's own."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

import fedlab
from fedlab.errors import Interrupted, ScenarioError, UsageError
from fedlab.experiment import flower
from fedlab.experiment.cells import Cell
from fedlab.progress import Quiet
from fedlab.runtime import RosterGrid, SimulationGrid
from fedlab.runtime._flower import RUN_ID
from fedlab.scenario import load, resolved_toml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TINY = (
    "clients.count=3 strategy.cohort=2 strategy.rounds=2 strategy.evaluate_every=1 task.model.width=8"
    " audit.rounds=[1] audit.victims=2 runtime.executor=inline"
)


def context(**config: str) -> Context:
    return Context(RUN_ID, 1, {}, RecordDict(), dict(config))


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what the clock says: on real nodes it is a real one."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in metrics["rounds"]]
    return {key: value for key, value in metrics.items() if key != "traffic"} | {"rounds": rows}


def test_a_run_on_a_foreign_grid_is_the_simulation_bit_for_bit(tmp_path: Path) -> None:
    """All cells, attacks and the report, on nodes whose ids say nothing about their partitions."""
    short = ['attacks=[{name = "cascade", iterations = 20}]', "audit.adaptive=false"]
    scenario = load("quickstart", [*TINY.split(), *short])
    scenario = scenario.model_copy(update={"defenses": (scenario.defenses[0], scenario.defenses[2])})
    file = tmp_path / "scenario.toml"
    file.write_text(resolved_toml(scenario))
    foreign = RosterGrid(SimulationGrid(flower.client_app, 3), [4, 2, 3])
    flower.server_app(foreign, context(scenario=str(file), out=str(tmp_path / "theirs")))
    fedlab.run(file, out=tmp_path / "ours")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    manifest = loaded(theirs / "manifest.json")
    assert manifest["status"] == "finished" and manifest["command"] == "flwr run"
    assert manifest["objects"] == {"grid": "flower"}
    assert manifest["weights_sha256"] == loaded(ours / "manifest.json")["weights_sha256"]
    assert len(manifest["weights_sha256"]) == 2
    for cell in ("none-train-s7", "architecture-train-s7"):
        expected, found = (loaded(run / "metrics.json")["cells"][cell] for run in (ours, theirs))
        assert expected.pop("virtual_seconds") == 2.0 and found.pop("virtual_seconds") is None
        assert (expected["traffic"]["clock"], found["traffic"]["clock"]) == ("virtual", "real")
        assert found["traffic"]["uploads"] == expected["traffic"]["uploads"]
        assert timeless(found) == timeless(expected)
        attack = f"attacks/{cell}/cascade.json"
        assert loaded(theirs / attack)["victims"] == loaded(ours / attack)["victims"]
    assert (theirs / "report.html").is_file()


@pytest.mark.parametrize("rule", ["scaffold", "personal-head"])
def test_a_cell_begins_without_the_memory_of_the_cell_before(rule: str, tmp_path: Path) -> None:
    """Flower keeps one context per node for all cells of a run; a simulation has one for each cell."""
    scenario = load("quickstart", [*TINY.split(), f"strategy.local_rule={rule}"])
    changes = {"attacks": (), "defenses": scenario.defenses[:1], "seed": None, "seed_list": (7, 8)}
    file = tmp_path / "scenario.toml"
    file.write_text(resolved_toml(scenario.model_copy(update=changes)))
    foreign = RosterGrid(SimulationGrid(flower.client_app, 3), [4, 2, 3])
    flower.server_app(foreign, context(scenario=str(file), out=str(tmp_path / "theirs")))
    fedlab.run(file, out=tmp_path / "ours")
    ours, theirs = (loaded(tmp_path / run / "manifest.json")["cells"] for run in ("ours", "theirs"))
    assert [one["name"] for one in ours] == ["none-train-s7", "none-train-s8"]
    assert [one["weights_sha256"] for one in theirs] == [one["weights_sha256"] for one in ours]


def test_pyproject_names_our_apps_and_the_same_version() -> None:
    """Flower reads the version from pyproject.toml and cannot compute it, so it stands there twice."""
    assert PROJECT["project"]["version"] == fedlab.__version__
    components = PROJECT["tool"]["flwr"]["app"]["components"]
    assert components == {
        "serverapp": f"{flower.__name__}:server_app",
        "clientapp": f"{flower.__name__}:client_app",
    }
    assert isinstance(flower.server_app, ServerApp) and isinstance(flower.client_app, ClientApp)


def test_the_scenario_is_found_by_name_in_the_bundle_or_anywhere(tmp_path: Path) -> None:
    config = PROJECT["tool"]["flwr"]["app"]["config"]
    assert flower.read(config, None).name == "quickstart", "the defaults of pyproject.toml"
    (tmp_path / "mine.toml").write_text('schema = 1\n[task]\ndataset = "digits"\nmodel = "mlp"\n')
    (tmp_path / "quickstart").write_text("no scenario")
    assert flower.read({"scenario": "quickstart"}, tmp_path).name == "quickstart", "shipped ones come first"
    for name, bundle in (("mine.toml", tmp_path), (str(tmp_path / "mine.toml"), None)):
        found = flower.read({"scenario": name, "set": "seed=9 'clients.count=4'"}, bundle)
        assert (found.name, found.seeds, found.clients.count) == ("mine", [9], 4)
        assert found.runtime.executor == "inline", "Ray may be Flower's own in that process"
    with pytest.raises(ScenarioError, match="no such file"):
        flower.read({"scenario": "mine.toml"}, None)


def test_a_node_of_another_version_refuses() -> None:
    content = RecordDict({"config": ConfigRecord({flower.VERSION: "0.0.1"})})
    grid = SimulationGrid(flower.client_app, 2)
    for kind in ("train", "evaluate"):
        (reply,) = grid.send_and_receive([Message(content, 2, kind)])
        assert "the server runs fedlab 0.0.1, this node" in reply.error.reason


def test_a_federation_of_another_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='--federation-config "num-supernodes=20"'):
        flower.server_app(SimulationGrid(flower.client_app, 2), context(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


class Stop(Quiet):
    """Somebody stops the run in the middle of a cell."""

    def advance(self, job: str, done: int, note: str = "") -> None:
        raise KeyboardInterrupt


def test_noise_is_not_used_again_on_other_answers_of_real_clients(tmp_path: Path) -> None:
    """A simulation repeats itself; clients of a deployment would answer anew under the noise of before."""
    scenario = load("quickstart", TINY.split())
    repeats = scenario.privacy.model_copy(update={"secure_rng": False})
    scenario = scenario.model_copy(
        update={"attacks": (), "defenses": scenario.defenses[1:2], "privacy": repeats}
    )
    nodes = RosterGrid(SimulationGrid(flower.client_app, 3), [4, 2, 3])

    def grid(cell: Cell) -> Grid:
        return RosterGrid(nodes.grid, [4, 2, 3], flower.instructions(scenario, cell))

    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        fedlab.run(scenario, out=out, grid=grid, progress=Stop())
    assert (out / "privacy" / "dp-sgd-train-s7.journal.jsonl").read_text()
    with pytest.raises(UsageError, match="the same noise on other updates"):
        fedlab.resume(out, grid=grid)
