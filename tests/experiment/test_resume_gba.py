"""A kill around a switch of GBA's mode loses no bit, nor a gradient that was under way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fedlab
from tests.experiment import crashes

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "seed": 3,
    "task": {"dataset": "digits", "model": "softmax"},
    "clients": {"count": 6, "batch_size": 16, "local_steps": 1},
    "strategy": {
        "name": "gba",
        "rounds": 7,
        "cohort": 3,
        "aggregator": "mean",
        "server_optimizer": {"name": "adam", "learning_rate": 0.01},
        "options": {
            "concurrency": 5,
            "tolerance": 0,
            "switch": [{"round": 3, "to": "sync"}, {"round": 6, "to": "async"}],
        },
    },
    "devices": {"time": {"name": "log-normal", "median": 1.0, "sigma": 1.0}},
    "runtime": {"executor": "inline"},
    "checkpoint": {"every": 1},
}


def schedule(out: Path) -> Any:
    (cell,) = json.loads((out / "metrics.json").read_text())["cells"].values()
    return cell["schedule"]


def test_a_kill_around_a_switch_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    copies = crashes.moments(lambda: fedlab.run(SCENARIO, out=out), out, tmp_path)
    whole = crashes.result(out), schedule(out)
    assert whole[1]["zeroed"] > 0 and whole[1]["under_way"] > 0
    stopped = [copy for copy in copies if list(copy.glob("checkpoints/*/round-*"))]
    for number in (2, 4, 5):  # the next round switches to "sync", to nothing, to "async"
        last = [copy for copy in stopped if list(copy.glob(f"checkpoints/*/round-{number:06}.values.json"))]
        fedlab.resume(last[0])
        assert (crashes.result(last[0]), schedule(last[0])) == whole, number
