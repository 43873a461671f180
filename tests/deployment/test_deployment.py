"""A scenario outside of our own Grid: on Flower's simulation engine, and on a SuperLink with SuperNodes.

Both must reach the weights of our simulation. They start real processes of Flower on the loopback
interface, with a FLWR_HOME of their own, and end them by pid.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.scenario import load
from tests.deployment.processes import ROOT, Flower, free_port, wait_for

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


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    flower = Flower(tmp_path / "home")
    try:
        yield flower
    finally:
        flower.end()
    assert flower.processes() == []


def run_config(scenario: Path, out: Path, changes: str = "") -> str:
    return f"scenario='{scenario}' out='{out}' set='{changes}'"


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
    flower.call(
        "flwr", "run", str(ROOT), "--stream",
        "--federation-config", "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1",
        "--run-config", run_config(scenario, run, changes),
        timeout=240,
    )  # fmt: skip
    check_like_the_simulation(run, outcome(run, flower), tmp_path / "three.toml", tmp_path / "ours")


def test_superlink_and_two_supernodes(flower: Flower, scenario: Path, tmp_path: Path) -> None:
    link = flower.start("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(flower.port))
    address = f"127.0.0.1:{flower.port}"
    (flower.home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "{address}"\ninsecure = true\n'
    )
    for partition in range(2):
        flower.start(
            "flower-supernode", "--insecure", "--superlink", address, "--port", str(free_port()),
            "--node-config", f"partition-id={partition} num-partitions=2",
        )  # fmt: skip
    wait_for(lambda: "Uvicorn running" in flower.logs() or link.poll() is not None, 60, flower.logs)
    run = tmp_path / "run"
    flower.call("flwr", "run", str(ROOT), "test", "--run-config", run_config(scenario, run), timeout=120)
    manifest = run / "manifest.json"
    wait_for(
        lambda: manifest.is_file() and json.loads(manifest.read_text())["status"] != "running",
        240,
        flower.logs,
    )
    check_like_the_simulation(run, outcome(run, flower), scenario, tmp_path / "ours")


def test_the_bundle_holds_scenarios_and_no_code(flower: Flower) -> None:
    """Code is the installed distribution's: see docs/flower.md."""
    flower.call("flwr", "build", "--app", str(ROOT), timeout=120)
    bundle = next(flower.home.glob("*.fab"))
    assert bundle.name.startswith(f"fedlab.fedlab-audit.{fedlab.__version__.replace('.', '-')}.")
    names = set(zipfile.ZipFile(bundle).namelist())
    shipped = {f"scenarios/{path.name}" for path in (ROOT / "scenarios").glob("*.toml")}
    assert names == shipped | {"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"}
