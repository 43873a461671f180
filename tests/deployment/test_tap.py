"""`fedlab tap` on a SuperLink with two SuperNodes, all of it real processes; what it records is the records.

One deployment for all of it, for its start takes longer than anything else.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from fedlab.apps.tap import CELL, NAME, attack_recording
from tests.apps.tap_by_hand import EXAMPLES, stating
from tests.deployment.processes import Flower, free_port, wait_for

pytestmark = pytest.mark.timeout(600)  # on a busy machine processes start slowly

PROJECT = """
[project]
name = "{name}"
version = "1.0.0"
description = "For a test"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "{name}:server"
clientapp = "{name}:client"
"""
MODULE = """
import time

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    print("here I am", flush=True)
    {body}
"""


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    flower = Flower(tmp_path / "home")
    try:
        yield flower
    finally:
        flower.end()
    assert flower.processes() == []


def small(name: str, body: str, folder: Path) -> Path:
    """An app whose server does this and asks no client."""
    path = folder / name
    path.mkdir()
    (path / "pyproject.toml").write_text(PROJECT.format(name=name))
    (path / f"{name}.py").write_text(MODULE.format(body=body))
    return path


def tapping(flower: Flower, cwd: Path, *options: str) -> subprocess.Popen[bytes]:
    """A tap that has reached the SuperLink and waits for a run."""
    place = f"127.0.0.1:{flower.port}"
    before = len(list(flower.home.glob("*.log")))
    tap = flower.start("fedlab", "tap", "--superlink", place, "--insecure", *options, cwd=cwd)
    log = flower.home / f"{before}-fedlab.log"
    wait_for(lambda: b"wait for a run" in log.read_bytes() or tap.poll() is not None, 120, flower.logs)
    return tap


def begin(flower: Flower, app: Path, *options: str) -> None:
    flower.call("flwr", "run", str(app), "mine", *options, timeout=120)


def said(flower: Flower) -> str:
    """What the last tap said."""
    last = max(flower.home.glob("*-fedlab.log"), key=lambda path: int(path.name.split("-")[0]))
    return last.read_text(errors="replace")


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def test_a_deployment_is_tapped(flower: Flower, tmp_path: Path) -> None:
    port = str(flower.port)
    link = flower.start(
        *("flower-superlink", "--insecure", "--isolation", "process", "--host", "127.0.0.1", "--port", port)
    )
    wait_for(lambda: "Uvicorn running" in flower.logs() or link.poll() is not None, 60, flower.logs)
    for number in range(2):
        flower.start(
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"),
            *("--port", str(free_port()), "--node-config", f"partition-id={number} num-partitions=2"),
        )
    (flower.home / "config.toml").write_text(
        f'[superlink.mine]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    records_are_recovered_and_a_failing_app_is_told(flower, tmp_path)
    a_user_stops_it(flower, tmp_path)
    the_superlink_goes_away(flower, tmp_path, link)


def records_are_recovered_and_a_failing_app_is_told(flower: Flower, tmp_path: Path) -> None:
    app = stating(
        EXAMPLES / "pytorch-cnn",
        tmp_path / "app",
        "input-shape = [1, 8, 8]\npixel-low = -1.0\npixel-high = 1.0\n",
    )
    tap = tapping(flower, tmp_path, "--runs", "2")
    begin(flower, app, "--run-config", 'model="mlp" batch-size=1 max-steps=1 num-server-rounds=1')
    begin(flower, small("failing", 'raise ValueError("no data on this machine")', tmp_path))
    assert tap.wait(400) == 1, flower.logs()
    first, second = tmp_path / "runs" / "tap-1", tmp_path / "runs" / "tap-2"
    text = said(flower)
    assert "2 updates. Not attacked yet" in text and str(first) in text
    assert "the ServerApp failed before its first round: ValueError: no data on this machine" in text
    assert "failing.py" in text and "fedlab/apps" not in text.partition("Traceback")[2], "its own traceback"
    assert (manifest(first)["status"], manifest(second)["status"]) == ("finished", "failed")
    assert "here I am" in (second / "serverapp.log").read_text()
    # Nobody told what the records are.
    report = attack_recording(first, app, attacks=["cascade:iterations=1"], include_samples=True)
    rows = report.data["deployment"]["attacks"][0]["victims"]
    assert [(row["round"], row["client"]) for row in rows] == [(1, 0), (1, 1)]
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    kept = load_file(first / "attacks" / CELL / "cascade.safetensors")
    for row in rows:
        assert row["holds"] and row["residual"] < 1e-4 and row["replayed"] < 1e-4
        apart = (images - kept[f"victim/1-{row['client']}"][0, 0]).abs().amax(dim=(1, 2))
        assert float(apart.min()) < 1e-4 and row["labels"] == [int(digits.target[int(apart.argmin())])]


def waiting(flower: Flower, app: Path, tmp_path: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """A tap in the middle of a run."""
    tap = tapping(flower, tmp_path, "--out", str(out), *options)
    begin(flower, app)
    log = out / "serverapp.log"
    wait_for(
        lambda: tap.poll() is not None or (log.exists() and "here I am" in log.read_text()), 120, flower.logs
    )
    return tap


def a_user_stops_it(flower: Flower, tmp_path: Path) -> None:
    body = "while True:\n        list(grid.get_node_ids())\n        time.sleep(0.1)"
    out = tmp_path / "stopped"
    tap = waiting(flower, small("lasting", body, tmp_path), tmp_path, out)
    tap.send_signal(signal.SIGINT)
    assert tap.wait(60) == 5, flower.logs()
    assert f"stopped by the user; {out} holds what was recorded" in said(flower)
    assert manifest(out)["status"] == "interrupted" and (out / NAME).exists()
    listed = subprocess.run(
        ["flwr", "ls", "mine", "--format", "json"],
        env=flower.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (state,) = [one["status"] for one in json.loads(listed.stdout)["runs"] if "lasting" in str(one)]
    assert state.startswith("finished"), "the SuperLink was told that it is over"


def the_superlink_goes_away(flower: Flower, tmp_path: Path, link: subprocess.Popen[bytes]) -> None:
    out = tmp_path / "gone"
    tap = waiting(flower, tmp_path / "lasting", tmp_path, out, "--patience", "1")
    link.terminate()
    assert tap.wait(120) == 6, flower.logs()
    text = said(flower)
    assert f"the SuperLink at 127.0.0.1:{flower.port} went away before its first round" in text
    assert f"{out} holds what was recorded until then" in text
    assert manifest(out)["status"] == "failed" and (out / "report.html").exists()
