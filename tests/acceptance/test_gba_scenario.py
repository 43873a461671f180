"""scenarios/gba.toml keeps its claim (a minute; `make test-slow`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.scenario import load

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def cells(out: Path) -> dict[str, Any]:
    """What each strategy came to, by its label."""
    found = json.loads((out / "metrics.json").read_text())["cells"]
    return {name.partition("-")[0]: one for name, one in found.items()}


def hashes(out: Path) -> Any:
    return json.loads((out / "manifest.json").read_text())["weights_sha256"]


def test_gba_is_twice_as_fast_as_waiting_and_has_the_same_weights_wherever_it_runs(tmp_path: Path) -> None:
    report = fedlab.run("gba", out=tmp_path / "ray").data
    found = cells(tmp_path / "ray")
    seconds = {label: one["reached"]["seconds"] for label, one in found.items()}
    assert seconds["sync"] >= 2 * seconds["gba"] and seconds["sync"] >= 2 * seconds["switch"]
    rounds = {label: one["reached"]["round"] for label, one in found.items()}
    assert max(rounds.values()) <= 1.2 * min(rounds.values()), "a step is worth the same in each mode"
    assert found["gba"]["schedule"]["switches"] == []
    rows = {row["strategy"]: row for row in report["fleet"]["rows"]}
    assert rows["gba"]["ratio"]["seconds"]["mean"] == pytest.approx(seconds["sync"] / seconds["gba"])
    for name, runtime in {
        "inline": ["runtime.executor=inline"],
        "one": ["runtime.executor=ray", "runtime.workers=1"],
    }.items():
        fedlab.run(load("gba", runtime), out=tmp_path / name)
        assert hashes(tmp_path / name) == hashes(tmp_path / "ray"), name
