"""The shipped scenario of several tasks keeps its claim (a minute; `make test-slow`)."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedlab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_fedast_finishes_all_tasks_much_sooner(tmp_path: Path) -> None:
    report = fedlab.run("fedast", out=tmp_path / "run")
    rows = {row["name"]: row for row in report.data["tasks"]}
    assert list(rows) == ["sync-st", "static", "dynamic"]
    assert all(task["met"] == 1 for row in rows.values() for task in row["tasks"])
    assert rows["static"]["ratio"] <= 0.7 and rows["dynamic"]["ratio"] <= 0.7
    assert "Several tasks on one fleet" in report.html.read_text(encoding="utf-8")
