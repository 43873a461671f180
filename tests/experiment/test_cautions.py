"""What people are told of a training that goes otherwise than its settings suggest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fedlab


def told(folder: Path, **options: Any) -> dict[str, str]:
    """Event -> reason, of six clients of whom two make a model."""
    scenario = {
        "schema": 1,
        "task": {"dataset": "digits", "model": "softmax"},
        "clients": {"count": 6, "batch_size": 32},
        "strategy": {"name": "fedbuff", "rounds": 4, "cohort": 2, "options": options},
        "runtime": {"executor": "inline"},
    }
    report = fedlab.run(scenario, out=folder / "run")
    lines = (report.directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return {event["event"]: event["reason"] for event in map(json.loads, lines) if "reason" in event}


def test_more_clients_at_once_than_there_are_get_a_warning(tmp_path: Path) -> None:
    assert "but there are 6 (clients.count)" in told(tmp_path, concurrency=7)["caution"]


def test_clients_that_have_all_done_their_share_end_the_training(tmp_path: Path) -> None:
    """Six clients, once each, two to a model: three models of four."""
    found = told(tmp_path, concurrency=4, max_participations=1)
    assert "caution" not in found and "max_participations" in found["ended early"]
