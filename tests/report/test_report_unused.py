"""Whoever knows a defense and does better without the use of it: every figure of a report counts the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.defenses.rows.matrix import table
from fedlab.audit import ThreatModel
from fedlab.registry import headline
from fedlab.report import AuditReport, build
from fedlab.report.sweep_cells import cell_row

CELL = "no-first-bias-train-s7"
ATTACK = "inverting-gradients"
NAME = f"{ATTACK} (defense unused)"
MORE = 40.0
"""dB that leaving the knowledge unused is worth."""


@pytest.fixture
def unused(run_dir: Path) -> AuditReport:
    """A run in which both kinds of attack get further as if they did not know the defense."""
    for label, defense in (("", True), ("unaware", False)):
        threat = {"threat": asdict(ThreatModel(defense=defense)), "threat_label": label}
        scores = json.loads((run_dir / "attacks" / CELL / f"{ATTACK}.json").read_text())
        for one in scores["victims"]:
            one["psnr"] = [value + (0.0 if defense else MORE) for value in one["psnr"]]
        _write(run_dir, ATTACK, label, scores | threat)
        # Members above all others, or in step with them.
        member = [number % 2 for number in range(240)]
        values = [number % 120 + (0.0 if defense else 1000.0 * one) for number, one in enumerate(member)]
        target = {"clients": [0], "rounds": [1], "member": member, "scores": values, "control": values[::-1]}
        about = {"kind": "membership", "defense": "no-first-bias", "client_mode": "train", "seed": 7}
        _write(run_dir, "membership-loss", label, about | threat | {"targets": [target]})
    return build(run_dir)


def _write(run: Path, attack: str, label: str, data: dict[str, Any]) -> None:
    path = run / "attacks" / CELL / f"{attack}{'@' + label if label else ''}.json"
    path.write_text(json.dumps({"error": None, "failed": False} | data | {"attack": attack}))


def _of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (row for row in rows if row["defense"] == "no-first-bias")
    return found


def test_the_most_exposed_are_those_of_the_attacker_whom_the_verdict_counts(unused: AuditReport) -> None:
    strongest = _of(unused.data["verdict"]["findings"])["strongest"]
    worst = _of(unused.data["exposure"])["clients"][0]
    row = next(
        one for one in unused.data["attacks"] if (one["attack"], one["threat_label"]) == (ATTACK, "unaware")
    )
    assert strongest == worst["attack"] == _of(unused.data["frontier"])["attack"] == NAME
    assert worst["psnr_max"] == row["psnr_max"]
    assert sum(one["recovered"] for one in _of(unused.data["exposure"])["clients"]) == row["recovered"] == 8


def test_membership_is_told_of_the_stronger_too(unused: AuditReport) -> None:
    areas = {row["threat_label"]: row["auc"] for row in unused.data["membership"]}
    assert areas["unaware"] == 1.0 and areas[""] < 0.6
    finding = _of(unused.data["verdict"]["findings"])
    assert "picked out by membership-loss (defense unused)" in finding["membership_brief"]
    assert headline.headline(unused.data).auc == 1.0


def test_so_say_the_cell_of_a_sweep_and_the_row_of_the_benchmark(unused: AuditReport, tmp_path: Path) -> None:
    shutil.copytree(unused.directory, tmp_path / "sweep" / "cells" / "a")
    row = _of(cell_row(tmp_path / "sweep", {"name": "a", "settings": {}})["rows"])
    assert (row["attack"], row["membership"], row["auc"]) == (NAME, "membership-loss (defense unused)", 1.0)
    (line,) = (one for one in table(unused.data, "train", "Digits").lines if one[0] == "`no-first-bias`")
    assert line[3] == NAME and line[-1] == "1.00"


def test_other_attackers_are_not_the_runs_own(run_dir: Path) -> None:
    """Who knows more than [threat] grants is told of as another threat, and exposes nobody here."""
    before = _of(build(run_dir).data["exposure"])
    scores = json.loads((run_dir / "attacks" / CELL / f"{ATTACK}.json").read_text())
    for one in scores["victims"]:
        one["psnr"] = [value + MORE for value in one["psnr"]]
    threat = {"threat": asdict(ThreatModel(labels=True, defense=False)), "threat_label": "told"}
    _write(run_dir, ATTACK, "told", scores | threat)
    assert _of(build(run_dir).data["exposure"]) == before
