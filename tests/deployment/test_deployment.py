"""A scenario outside of our own Grid: on Flower's simulation engine, and on a SuperLink with SuperNodes.

Both must reach the weights of our simulation. The commands are those of docs/flower.md, with other ports
and a smaller scenario; they run with a FLWR_HOME of their own, and what they start is ended by pid.
"""

import json
import re
import shlex
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.scenario import load
from tests.deployment.processes import ROOT, Flower, free_port, wait_for

pytestmark = pytest.mark.timeout(600)  # half a minute each, but on a busy machine processes start slowly

SCENARIO = """
schema = 1
name = "deployed"
seed = 3

[task]
dataset = "digits"
model = { name = "mlp", width = 16 }

[clients]
count = 2
partition = { name = "dirichlet", alpha = 1.0 }
batch_size = 1
local_steps = 2
learning_rate = 0.1

[strategy]
rounds = 2

[runtime]
executor = "inline"

[audit]
rounds = [1]

[[attacks]]
name = "linear-layer"
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "deployed.toml"
    path.write_text(SCENARIO)
    return path


@contextmanager
def at_home(home: Path) -> Iterator[Flower]:
    """Flower's commands, and no process of theirs afterwards."""
    flower = Flower(home)
    try:
        yield flower
    finally:
        flower.end()
    assert flower.processes() == []


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    with at_home(tmp_path / "home") as flower:
        yield flower


PAGE = (ROOT / "docs" / "flower.md").read_text()


def block(kind: str, about: str) -> str:
    """The block of docs/flower.md in that language that speaks of `about`."""
    (found,) = (b for b in re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S) if about in b)
    return str(found)


def commands(about: str, start: str, **changes: str) -> list[list[str]]:
    """The documented commands that start so, with some of their words changed."""
    lines = block("sh", about).replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if line.startswith(start)]
    for old, new in changes.items():
        assert any(old in word for command in found for word in command), f"{old} is in no {start} command"
        found = [[word.replace(old, new) for word in command] for command in found]
    return found


def outcome(run: Path, flower: Flower) -> dict[str, Any]:
    """The run's manifest: `flwr run` exits with 0 even if the run died."""
    if not (run / "manifest.json").is_file():
        raise RuntimeError(f"no run was written\n{flower.logs()}")
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    if manifest["status"] != "finished":
        raise RuntimeError(f"{manifest['status']}: {manifest.get('error')}\n{flower.logs()}")
    return manifest


def check_like_the_simulation(run: Path, manifest: dict[str, Any], scenario: Path, out: Path) -> None:
    fedlab.run(scenario, out=out)
    expected = json.loads((out / "manifest.json").read_text())
    assert manifest["weights_sha256"] == expected["weights_sha256"]
    ours, theirs = (json.loads((one / "report.json").read_text()) for one in (out, run))
    assert theirs["attacks"] == ours["attacks"], "the same updates were seen, and the same truth is known"


@pytest.mark.ray
def test_flwr_run_on_flowers_own_engine(flower: Flower, scenario: Path, tmp_path: Path) -> None:
    """Three SuperNodes of which two are asked per round: sampling too is that of the simulation."""
    changes = "clients.count=3 strategy.cohort=2"
    settings = load(scenario, [*changes.split()])
    (tmp_path / "three.toml").write_text(fedlab.scenario.resolved_toml(settings))
    run = tmp_path / "run"
    (command,) = commands(
        "num-supernodes=20",
        "flwr run",
        **{
            "num-supernodes=20": "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1",
            "quickstart": str(scenario),
            "strategy.rounds=20": changes,
            "$PWD/runs/on-flower": str(run),
        },
    )
    flower.call(*command, timeout=240)
    check_like_the_simulation(run, outcome(run, flower), tmp_path / "three.toml", tmp_path / "ours")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """A SuperLink with two SuperNodes, which serve one run after the other."""
    with at_home(tmp_path_factory.mktemp("federation") / "home") as flower:
        port = str(flower.port)
        (link,) = (
            flower.start(*one) for one in commands("flower-superlink", "flower-superlink", **{"8000": port})
        )
        wait_for(lambda: "Uvicorn running" in flower.logs() or link.poll() is not None, 60, flower.logs)
        ports = {"8000": port, "9094": str(free_port()), "9095": str(free_port())}
        for node in commands("flower-superlink", "flower-supernode", **ports):
            flower.start(*node)
        (flower.home / "config.toml").write_text(block("toml", "superlink.mine").replace("8000", port))
        yield flower


def deployed(federation: Flower, scenario: Path, tmp_path: Path) -> Path:
    """The run directory of the scenario on it."""
    run = tmp_path / "run"
    changes = {"quickstart": str(scenario), "$PWD/runs/deployed": str(run)}
    (command,) = commands("flwr run . mine", "flwr run", **changes)
    federation.call(*command, timeout=120)
    manifest = run / "manifest.json"
    wait_for(
        lambda: manifest.is_file() and json.loads(manifest.read_text())["status"] != "running",
        240,
        federation.logs,
    )
    return run


def test_superlink_and_two_supernodes(federation: Flower, scenario: Path, tmp_path: Path) -> None:
    run = deployed(federation, scenario, tmp_path)
    check_like_the_simulation(run, outcome(run, federation), scenario, tmp_path / "ours")


BUFFERED = """
[strategy]
name = "fedbuff"
rounds = 2
cohort = 2
options = { concurrency = 2, max_participations = 2 }
"""


def test_fedbuff_on_a_superlink_with_two_supernodes(
    federation: Flower, scenario: Path, tmp_path: Path
) -> None:
    """Who is first is up to the processes; that each is asked twice, for two models, is not."""
    scenario.write_text(scenario.read_text().replace("[strategy]\nrounds = 2\n", BUFFERED.strip() + "\n"))
    run = deployed(federation, scenario, tmp_path)
    outcome(run, federation)
    (cell,) = json.loads((run / "metrics.json").read_text())["cells"].values()
    assert cell["traffic"]["downloads"] == cell["traffic"]["uploads"] == 4
    assert cell["traffic"]["clock"] == "real" and cell["failures"] == 0
    schedule = cell["schedule"]
    assert sum(count for _, count in schedule["staleness"]) == 4 and schedule["left_in_buffer"] == 0
    assert cell["rounds"][-1]["round"] == 2


def test_the_bundle_holds_scenarios_and_no_code(flower: Flower, tmp_path: Path) -> None:
    """Code is the installed distribution's: see docs/flower.md."""
    flower.call("flwr", "build", "--app", str(ROOT), cwd=tmp_path, timeout=120)
    (bundle,) = tmp_path.glob("*.fab")
    assert bundle.name.startswith(f"fedlab.fedlab-audit.{fedlab.__version__.replace('.', '-')}.")
    names = set(zipfile.ZipFile(bundle).namelist())
    shipped = {f"scenarios/{path.name}" for path in (ROOT / "scenarios").glob("*.toml")}
    assert names == shipped | {"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"}
