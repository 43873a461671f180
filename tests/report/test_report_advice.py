"""Recommendations: each follows from rows, carries them, and is silent without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from audited_run import edit, write_audited

from fedlab.report import build
from fedlab.report.controls import CONTROLS


@pytest.fixture(scope="module")
def advice(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = build(write_audited(tmp_path_factory.mktemp("advice") / "run")).data[
        "recommendations"
    ]
    return rows


def kind(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (row,) = [one for one in rows if one["kind"] == name]
    return row


def test_all_carry_evidence_and_controls(advice: list[dict[str, Any]]) -> None:
    assert advice and all(one["evidence"] and one["controls"] and one["text"] for one in advice)
    assert {text for one in advice for text in one["controls"]} <= set(CONTROLS.values())
    whole = json.dumps(advice).lower()
    assert " safe" not in whole and "risk score" not in whole and "no risk" not in whole


def test_what_is_certified_comes_with_its_count(advice: list[dict[str, Any]]) -> None:
    row = kind(advice, "certified")
    assert "unique in 8 of 8 updates" in row["evidence"][0] and "linear layer" in row["title"]
    assert "consider dp-sgd" in row["text"] and "22.7 percentage points less accuracy" in row["text"]


def test_the_leaking_are_named_and_the_least_costly_that_held_is_offered(
    advice: list[dict[str, Any]],
) -> None:
    row = kind(advice, "leak")
    assert "none and no-first-bias" in row["title"] and len(row["evidence"]) == 2
    assert "with ε = 7.85" in row["text"]


def test_secrecy_noise_thin_evidence_and_pixels_are_told(advice: list[dict[str, Any]]) -> None:
    assert "6.0 dB" in kind(advice, "secrecy")["evidence"][0]
    assert "secure_rng" in kind(advice, "noise")["text"]
    assert kind(advice, "thin")["evidence"][0].startswith("at most 8 victims")
    assert kind(advice, "pixels") and kind(advice, "untested")


def test_without_anything_that_held_nothing_is_offered(tmp_path: Path) -> None:
    rows = build(write_audited(tmp_path / "run", defenses=("none", "no-first-bias"))).data["recommendations"]
    assert "No defense that this run tried kept every attack below" in kind(rows, "leak")["text"]
    assert "Add a defense with a proof" in kind(rows, "unproved")["title"]


def test_a_broken_assumption_is_to_be_mended(tmp_path: Path) -> None:
    out = write_audited(tmp_path / "run", defenses=("none", "dp-sgd"))
    broken = {"text": "Poisson sampling", "holds": False}
    edit(out / "privacy" / "dp-sgd-train-s7.json", lambda g: g.update(assumptions=[broken]))
    rows = [one for one in build(out).data["recommendations"] if one["kind"] == "unproved"]
    assert rows[0]["evidence"] == ["assumption not kept: Poisson sampling"]
    assert rows[0]["about"] == {"strategy": "", "defense": "dp-sgd", "client_mode": "train"}


def test_a_defense_that_costs_and_does_nothing_is_to_be_dropped(tmp_path: Path) -> None:
    out = write_audited(tmp_path / "run", defenses=("none", "pruned"))
    base = out / "attacks" / "none-train-s7"
    for path in base.glob("*.json"):
        edit(out / "attacks" / "pruned-train-s7" / path.name, lambda found, path=path: found.update(
            victims=json.loads(path.read_text())["victims"]
        ))  # fmt: skip
    row = kind(build(out).data["recommendations"], "useless")
    assert row["title"].startswith("Drop pruned") and "4.4 percentage points" in row["text"]
