"""Run directories as small as they can be, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlab.cli import main

REPORT: dict[str, Any] = {
    "schema_version": 1,
    "verdict": {"headline": "A server that only watches recovered 3 of 4 images."},
    "attacks": [
        {"attack": "high-median", "threat_label": "", "level": "above", "psnr_median": 19.0,
         "fraction_recovered": 0.0, "recovered": 0, "images": 4, "defense": "none", "client_mode": "train"},
        {"attack": "strong", "threat_label": "", "level": "some", "psnr_median": 18.0,
         "fraction_recovered": 0.75, "recovered": 3, "images": 4, "defense": "none", "client_mode": "train"},
        {"attack": "oracle", "threat_label": "everything", "level": "copy", "psnr_median": 99.0,
         "fraction_recovered": 1.0, "recovered": 4, "images": 4, "defense": "none", "client_mode": "train"},
        {"attack": "silent", "threat_label": "", "level": "refused", "psnr_median": None,
         "fraction_recovered": None, "recovered": 0, "images": 0, "defense": "none", "client_mode": "train"},
    ],
    "membership": [{"attack": "loss", "defense": "none", "client_mode": "train", "auc": 0.625}],
    "utility": [
        {"defense": "none", "client_mode": "train", "accuracy": 0.875, "loss": 0.25},
        {"defense": "dp-sgd", "client_mode": "train", "accuracy": 0.5, "loss": None},
    ],
    "guarantees": [
        {"defense": "none", "client_mode": "train", "epsilon": None},
        {"defense": "dp-sgd", "client_mode": "train", "epsilon": 3.14159},
    ],
    "gates": [{"verdict": "passed"}, {"verdict": "failed"}, {"verdict": "unmeasured"}],
}  # fmt: skip
METRICS: dict[str, Any] = {
    "cells": {
        "none-train-s7": {
            "accuracy": 0.875,
            "rounds": [
                {"round": 1, "seconds": 2.5, "accuracy": 0.5, "loss": None, "train_loss": 2.0},
                {"round": 2, "seconds": 5.0, "accuracy": 0.875, "loss": 0.25, "train_loss": 1.0},
            ],
        }
    }
}
SCENARIO = """
seed = 7
[task]
model = { name = "mlp", width = 8 }
[[defenses]]
name = "none"
[[defenses]]
name = "dp-sgd"
label = "private"
noise_multiplier = 1.5
"""


def write(path: Path, **manifest: Any) -> Path:
    """A finished run; `manifest` are other values of its manifest."""
    path.mkdir(parents=True)
    base = {
        "schema": 1,
        "status": "finished",
        "name": "small",
        "claim": "Nothing leaks.",
        "cells": [{"name": "none-train-s7"}],
        "started": "2026-11-21T19:25:08+00:00",
        "finished": "2026-11-21T19:28:15+00:00",
    }
    (path / "manifest.json").write_text(json.dumps(base | manifest))
    (path / "scenario.toml").write_text(SCENARIO)
    started = {"event": "started", "cells": ["none-train-s7", "private-train-s7"]}
    (path / "events.jsonl").write_text(json.dumps(started) + "\n")
    (path / ".lock").touch()
    (path / "metrics.json").write_text(json.dumps(METRICS))
    (path / "report.json").write_text(json.dumps(REPORT))
    return path


def write_sweep(path: Path, names: tuple[str, ...] = ("one",), **data: Any) -> Path:
    """A sweep whose first cell is finished; `data` are other values of its sweep.json."""
    write(path / "cells" / names[0], started="2026-02-01T00:00:00+00:00")
    base = {
        "schema": 1,
        "name": "small",
        "claim": "Batches hide.",
        "cells": [{"name": one, "settings": {}, "scenario_sha256": ""} for one in names],
    }
    (path / "sweep.json").write_text(json.dumps(base | data))
    (path / "scenario.toml").write_text(SCENARIO)
    events = [{"time": 1.8e9, "event": "started", "cell": one} for one in names]
    (path / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events) + '{"eve')
    (path / ".lock").touch()
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs` below the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


Fedlab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fedlab:
    """fedlab("runs", "list") -> exit code, stdout, stderr."""
    for name in ("FEDLAB_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, captured.out, captured.err

    return call
