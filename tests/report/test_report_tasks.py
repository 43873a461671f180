"""The report on several tasks: who met the target when, and what that is beside the first strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.report import build


def task(label: str, seconds: float | None, target: dict[str, float] | None = None) -> dict[str, Any]:
    reached = None if seconds is None else {"round": 3, "seconds": seconds, "uploads": 9}
    return {
        "label": label,
        "target": target or {"accuracy": 0.5},
        "accuracy": 0.75,
        "loss": 0.5,
        "reached": reached,
    }


def reported(directory: Path, cells: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, Any], str]:
    """The report of a run of these strategies and seeds (`name:seed` -> tasks)."""
    run = write_run(directory)
    manifest = json.loads((run / "manifest.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    old = next(iter(metrics["cells"].values()))
    manifest["cells"], metrics["cells"], manifest["status"] = [], {}, "failed"
    for key, tasks in cells.items():
        strategy, seed = key.split(":")
        name = f"{strategy}-none-train-s{seed}"
        about = {"strategy": strategy, "defense": "none", "client_mode": "train", "seed": int(seed)}
        manifest["cells"].append({"name": name, **about, "weights_sha256": "0"})
        times = [one["reached"]["seconds"] for one in tasks if one["reached"]]
        last = {"round": 3, "seconds": max(times), "uploads": 9} if len(times) == len(tasks) else None
        metrics["cells"][name] = old | {"tasks": tasks, "reached": last}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "metrics.json").write_text(json.dumps(metrics))
    report = build(run)
    return report.data, report.html.read_text(encoding="utf-8")


def test_times_are_means_over_seeds_and_the_last_is_compared(tmp_path: Path) -> None:
    """Makespans 10 and 20 against 5 and 16: the mean of 1/2 and 4/5 is 65 %."""
    data, page = reported(
        tmp_path,
        {
            "sync:0": [task("a", 10.0), task("b", 4.0)],
            "sync:1": [task("a", 20.0), task("b", 6.0)],
            "fast:0": [task("a", 5.0), task("b", 4.0)],
            "fast:1": [task("a", 10.0), task("b", 16.0)],
        },
    )
    sync, fast = data["tasks"]
    assert [one["seconds"] for one in sync["tasks"]] == [15.0, 5.0] and sync["makespan"] == 15.0
    assert fast["makespans"] == [5.0, 16.0] and fast["against"] == "sync" and sync["ratio"] is None
    assert fast["ratio"] == pytest.approx(0.65)
    assert "Several tasks on one fleet" in page and "<b>65\u00a0%</b>" in page


def test_a_target_that_was_missed_has_no_time_and_no_ratio(tmp_path: Path) -> None:
    data, page = reported(
        tmp_path,
        {
            "sync:0": [task("a", 10.0), task("b", 4.0)],
            "fast:0": [task("a", 5.0), task("b", None)],
        },
    )
    assert data["tasks"][1]["makespan"] is None and data["tasks"][1]["ratio"] is None
    assert data["tasks"][1]["tasks"][1]["met"] == 0 and "not met" in page


def test_one_task_needs_no_such_section(tmp_path: Path) -> None:
    report = build(write_run(tmp_path))
    assert report.data["tasks"] == [] and "Several tasks" not in report.html.read_text(encoding="utf-8")
