"""The report's words on clients that attack the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedlab.report import AuditReport, build


def attacked(run: Path, *rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Adversaries in every cell of the run; gives the cells' metrics."""
    metrics = json.loads((run / "metrics.json").read_text())
    for cell in metrics["cells"].values():
        cell["adversaries"] = list(rows)
    (run / "metrics.json").write_text(json.dumps(metrics))
    with (run / "scenario.toml").open("a") as file:
        file.write('\n[[adversaries]]\nname = "backdoor"\nlabel = "<b>door"\nfraction = 0.1\ntarget = 4\n')
    cells: dict[str, dict[str, Any]] = metrics["cells"]
    return cells


DOOR = {
    "label": "<b>door",
    "clients": [3, 11],
    "knows": "nothing but their own records",
    "wants": "test images that are called class 4",
    "success": 0.873,
    "trials": 300,
}
FLIP = {"label": "flip", "clients": [5], "knows": "it all", "wants": "", "success": None, "trials": 0}


def test_without_adversaries_there_is_no_such_section(report: AuditReport) -> None:
    assert report.data["integrity"] == []
    assert "Integrity</h2>" not in report.html.read_text()
    assert any("Poisoning" in text for text in report.data["threat_models"]["not_tested"])


def test_each_attack_is_told_with_what_it_achieved(run_dir: Path) -> None:
    cells = attacked(run_dir, DOOR, FLIP)
    report = build(run_dir)
    assert [row["defense"] for row in report.data["integrity"]] == ["none", "dp-sgd", "no-first-bias"]
    row = report.data["integrity"][0]
    assert row["accuracy"] == cells["none-train-s7"]["accuracy"] and row["seeds"] == [7]
    door, flip = row["adversaries"]
    assert door == {
        "label": "<b>door",
        "plugin": "backdoor",
        "settings": {"target": 4},
        "clients": 2,
        "of": 20,
        "success": 0.873,
        "success_definition": "share of test images that are called class 4",
        "trials": 300,
        "threat": "2 clients of 20 attack together, in every round that asks them."
        " Attackers know nothing but their own records.",
    }
    assert flip["success"] is None and flip["success_definition"] is None and flip["plugin"] == "flip"
    assert flip["threat"] == "1 client of 20 attacks, in every round that asks it. Attackers know it all."
    page = report.html.read_text()
    section = page[page.index("Integrity</h2>") :]
    assert "87.3" in section and "2 of 20" in section and "&lt;b&gt;door" in section and "<b>door" not in page
    assert not any("Poisoning" in text for text in report.data["threat_models"]["not_tested"])


def test_clients_that_attack_are_no_clients_to_care_for(run_dir: Path) -> None:
    cells = attacked(run_dir, FLIP)
    rows = cells["none-train-s7"]["per_client"]
    rows[0] |= {"adversary": "flip", "accuracy": 0.0}
    metrics = {"cells": cells}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (row,) = (one for one in build(run_dir).data["utility"] if one["defense"] == "none")
    assert row["per_client"]["worst"] > 0.0
    assert row["per_client"]["values"] == sorted(one["accuracy"] for one in rows[1:])


def test_the_section_names_what_stands_before_the_aggregator(run_dir: Path) -> None:
    attacked(run_dir, FLIP)
    text = (run_dir / "scenario.toml").read_text()
    before = 'aggregator = "mean"\npre_aggregation = { name = "nnm", f = 2 }'
    assert 'aggregator = "weighted-mean"' in text
    (run_dir / "scenario.toml").write_text(text.replace('aggregator = "weighted-mean"', before))
    assert "Updates are combined by: mean after nnm (f 2)." in build(run_dir).html.read_text()
