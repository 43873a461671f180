"""A run of a synchronous and a buffered strategy, with traffic by hand, in a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fake_run import write_run

SYNC, BUFFERED = "sync", "fedbuff"
TENTHS = {
    SYNC: [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0, 0.0],
    BUFFERED: [1.0] * 10,
}
"""Uploads per device, of 100 devices: 330 and 100 in all."""
TRIPS = {
    SYNC: [
        [0, 0.0, 1.0, 1, "counted"],
        [1, 0.0, 2.0, 1, "counted"],
        [2, 0.0, 2.0, 1, "aborted"],
        [0, 2.0, 3.0, 2, "counted"],
        [1, 2.0, 4.0, 2, "counted"],
        [2, 2.0, 4.0, 2, "aborted"],
        [0, 4.0, None, 3, "under way"],
    ],
    BUFFERED: [
        [0, 0.0, 1.0, 1, "counted"],
        [2, 0.0, 3.0, 1, "counted"],
        [0, 1.0, 2.0, 2, "counted"],
        [1, 2.0, 3.5, 3, "failed"],
        [0, 2.5, None, 3, "under way"],
    ],
}


def traffic(label: str, seconds: float, uploads: int) -> dict[str, Any]:
    """As `Traffic.summary` has it: half of the devices are old, and sent a tenth of the uploads to `sync`."""
    old = uploads // 10 if label == SYNC else uploads // 2
    return {
        "clock": "virtual",
        "seconds": seconds,
        "devices": 100,
        "speeds": {"fastest": 1.0, "median": 2.0, "slowest": 3.0},
        "downloads": uploads + 30,
        "uploads": uploads,
        "aborted": 30 if label == SYNC else 0,
        "received": 1000 * (uploads + 30),
        "sent": 1000 * uploads,
        "classes": [
            {"name": "new", "devices": 50, "asked": uploads - old, "uploads": uploads - old,
             "counted": uploads - old, "busy_seconds": 10.0 * seconds},
            {"name": "old", "devices": 50, "asked": old + 30, "uploads": old,
             "counted": old, "busy_seconds": 25.0 * seconds},
        ],
        "deciles": TENTHS[label],
        "window": {
            "start": 0.0,
            "end": 4.5 if label == SYNC else 3.2,
            "trips": TRIPS[label],
            "devices": [[0, 1.0], [1, 1.5], [2, 3.0]],
        },
    }  # fmt: skip


def evaluations(seconds: float, uploads: int) -> list[dict[str, Any]]:
    """Two rows: half-way and at the end."""
    return [
        {"round": 10 * part, "loss": 1.5 - 0.4 * part, "accuracy": 0.4 * part, "train_loss": 1.0,
         "seconds": seconds * part / 2, "uploads": uploads * part // 2,
         "received": 500 * (uploads + 30) * part, "sent": 500 * uploads * part}
        for part in (1, 2)
    ]  # fmt: skip


def schedule(staleness: list[list[int]], left: int) -> dict[str, Any]:
    """Facts of FedBuff: 20 at once, 10 make a version."""
    mean = sum(value * count for value, count in staleness) / sum(count for _, count in staleness)
    return {
        "name": "fedbuff", "concurrency": 20, "buffer": 10, "weight": "polynomial (exponent 0.5)",
        "staleness": staleness, "mean_staleness": mean, "discarded": 0, "left_in_buffer": left,
        "under_way": 20,
    }  # fmt: skip


def write_fleet_run(directory: Path, *, seeds: tuple[int, ...] = (7, 8), target: bool = True) -> Path:
    """Seconds to the target: 300 and 310 against 50 and 62; uploads: 330 and 330 against 100 and 110."""
    write_run(directory, samples=False, seeds=seeds, defenses=("x0", "x1"))
    manifest = json.loads((directory / "manifest.json").read_text())
    metrics = json.loads((directory / "metrics.json").read_text())
    for cell in manifest["cells"]:
        label = SYNC if cell["defense"] == "x0" else BUFFERED
        later = cell["seed"] - 7
        cell |= {"strategy": label, "defense": "none"}
        seconds, uploads = (
            (300.0 + 10 * later, 330) if label == SYNC else (50.0 + 12 * later, 100 + 10 * later)
        )
        rows = evaluations(seconds, uploads)
        reached = {key: rows[-1][key] for key in ("round", "seconds", "uploads", "received", "sent")}
        metrics["cells"][cell["name"]] |= {
            "rounds": rows,
            "reached": reached if target else None,
            "traffic": traffic(label, seconds, uploads),
            "schedule": None
            if label == SYNC
            else schedule([[0, 20], [1, 40 + later], [3, 20]], 4 + 2 * later),
        }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "metrics.json").write_text(json.dumps(metrics))
    text = (directory / "scenario.toml").read_text()
    if target:
        text = text.replace("[runtime]", "target = { loss = 0.7 }\n[runtime]")
    text += f'\n[[strategies]]\nlabel = "{SYNC}"\n[[strategies]]\nlabel = "{BUFFERED}"\nname = "fedbuff"\n'
    (directory / "scenario.toml").write_text(text)
    return directory


def edit_metrics(directory: Path, **changes: Any) -> None:
    """Replace entries of every cell's metrics; None removes."""
    path = directory / "metrics.json"
    metrics = json.loads(path.read_text())
    for cell in metrics["cells"].values():
        cell |= changes
        for key in [key for key, value in changes.items() if value is None]:
            del cell[key]
    path.write_text(json.dumps(metrics))
