"""Runs side by side: paired where the same people were attacked, and told apart where not."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import write_run
from scipy.stats import t

from fedlab.errors import DataError, UsageError
from fedlab.report import build
from fedlab.report.compare import compare
from fedlab.report.export.comparison import csv_text, markdown, sheets


@pytest.fixture
def pair(run_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run and a copy of it, to alter."""
    return run_dir, Path(shutil.copytree(run_dir, tmp_path / "other"))


def alter_scores(run: Path, attack: str, by: float) -> None:
    """Let an attack on the undefended have got so many dB more."""
    path = run / "attacks" / "none-train-s7" / f"{attack}.json"
    data = json.loads(path.read_text())
    for place, one in enumerate(data["victims"]):
        one["psnr"] = [value + by + 0.1 * place for value in one["psnr"]]
    path.write_text(json.dumps(data))
    (run / "report.json").unlink()


def row(data: dict[str, Any], table: str, **about: str) -> dict[str, Any]:
    return next(one for one in data[table] if about.items() <= one.items())


def test_a_run_beside_its_copy_differs_in_nothing(pair: tuple[Path, Path]) -> None:
    data = compare(pair)
    assert data["settings"] == data["software"] == []
    for one in data["attacks"]:
        if one["runs"][0]["psnr_median"] is not None:
            assert one["differences"][0]["mean"] == 0.0 and one["differences"][0]["paired"]
    assert all(one["equal"] for one in data["weights"])
    assert [one["letter"] for one in data["runs"]] == ["A", "B"]


def test_the_same_victims_are_compared_in_pairs(pair: tuple[Path, Path]) -> None:
    alter_scores(pair[1], "inverting-gradients", 3.0)
    data = compare(pair)
    assert (pair[1] / "report.json").is_file()  # what lacked its report has one now
    gain = row(data, "attacks", attack="inverting-gradients", defense="none")["differences"][0]
    assert (gain["paired"], gain["victims"]) == (True, 8)
    # Every pair differs by 3 to 3.7 dB; unpaired, the spread of the victims would be in the interval.
    assert gain["mean"] == pytest.approx(3.0 + 0.1 * 3.5)
    assert 3.0 <= gain["ci95"][0] < gain["mean"] < gain["ci95"][1] <= 3.7
    back = row(compare(pair[::-1]), "attacks", attack="inverting-gradients", defense="none")
    assert back["differences"][0]["mean"] == pytest.approx(-gain["mean"])


def test_other_victims_are_not_paired(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "truth" / "none-train-s7.json"
    truth = json.loads(path.read_text())
    truth["victims"][0]["record_ids"] = ["another record"]
    path.write_text(json.dumps(truth))
    data = compare(pair)
    gain = row(data, "attacks", attack="inverting-gradients", defense="none")["differences"][0]
    assert gain["paired"] is False and gain["ci95"][0] < 0.0 < gain["ci95"][1]
    (sheet,) = [one for one in sheets(data) if one.title == "Reconstruction"]
    assert "Not the same victims" in sheet.note and any(cell.endswith(" *") for cell in sheet.rows[0])
    other = row(data, "attacks", attack="inverting-gradients", defense="dp-sgd")["differences"][0]
    assert other["paired"] is True


def test_another_data_set_is_not_paired_whatever_its_numbers(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dataset"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    (pair[1] / "report.json").unlink()
    gains = [one["differences"][0] for one in compare(pair)["attacks"]]
    assert not any(one["paired"] for one in gains if one)


def test_what_was_set_otherwise_goes_by_labels(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "scenario.toml"
    text = path.read_text().replace("rounds = 400", "rounds = 40")
    path.write_text(text.replace('label = "no-first-bias"', 'label = "no-first-bias"\nbias = false'))
    assert compare(pair)["settings"] == [
        {"key": "strategy.rounds", "values": [400, 40]},
        {"key": "defenses.no-first-bias.bias", "values": [None, False]},
    ]


def test_accuracy_is_paired_over_seeds(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, seeds=(7, 8, 9), samples=False, defenses=("none", "dp-sgd"))
        for name in "ab"
    ]
    path = runs[1] / "metrics.json"
    metrics = json.loads(path.read_text())
    gains = [0.01, 0.02, 0.04]
    for seed, gain in zip((7, 8, 9), gains, strict=True):
        metrics["cells"][f"none-train-s{seed}"]["accuracy"] += gain
    path.write_text(json.dumps(metrics))
    data = compare(runs)
    found = row(data, "utility", defense="none")["differences"][0]
    half = t.ppf(0.975, 2) * np.std(gains, ddof=1) / np.sqrt(3)
    assert found["mean"] == pytest.approx(np.mean(gains)) and found["paired"] and found["seeds"] == 3
    assert found["ci95"] == pytest.approx([np.mean(gains) - half, np.mean(gains) + half])
    assert row(data, "utility", defense="dp-sgd")["differences"][0]["mean"] == 0.0


def test_one_seed_gives_a_difference_without_an_interval(pair: tuple[Path, Path]) -> None:
    data = compare(pair)
    assert all(one["differences"][0]["ci95"] is None for one in data["utility"])
    (sheet,) = [one for one in sheets(data) if one.title == "Accuracy"]
    assert "intervals take the same seeds" in sheet.note


def test_what_only_one_run_has_stands_beside_nothing(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", defenses=("none", "clip"))
    data = compare([run_dir, other])
    only = row(data, "attacks", attack="linear-layer", defense="clip")
    assert only["runs"][0] is None and only["runs"][1] is not None and only["differences"] == [None]
    assert row(data, "guarantees", defense="dp-sgd")["runs"][1] is None
    assert row(data, "weights", defense="clip")["equal"] is None
    assert row(data, "weights", defense="none")["equal"] is True


def test_three_runs_have_the_first_for_their_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    alter_scores(pair[1], "inverting-gradients", 1.0)
    third = Path(shutil.copytree(pair[0], tmp_path / "third"))
    alter_scores(third, "inverting-gradients", 2.0)
    found = row(compare([*pair, third]), "attacks", attack="inverting-gradients", defense="none")
    assert [round(one["mean"], 2) for one in found["differences"]] == [1.35, 2.35]


def test_a_comparison_is_strict_json_markdown_and_csv(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "scenario.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.1", 'learning_rate = "=cmd | <b>"'))
    data = compare(pair)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    text = markdown(data)
    assert "\\<b\\>" in text and "<b>" not in text and "=cmd \\|" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(data), newline="")))
    values = {(one["run"], one["figure"]): one["value"] for one in lines if one["table"] == "settings"}
    assert values == {("A", "clients.learning_rate"): "0.1", ("B", "clients.learning_rate"): "'=cmd | <b>"}
    figures = [one for one in lines if one["figure"] == "psnr_difference"]
    assert figures and all(one["paired"] == "true" for one in figures)


@pytest.mark.parametrize("count", [0, 1, 27])
def test_the_number_of_runs(tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match="expected 2 to 26"):
        compare([tmp_path / str(number) for number in range(count)])


def test_a_run_is_not_compared_with_itself(run_dir: Path) -> None:
    with pytest.raises(UsageError, match="given twice"):
        compare([run_dir, run_dir / "." / "..", run_dir.parent / "run"])


def test_what_is_no_run_or_is_broken_or_of_another_version_is_named(pair: tuple[Path, Path]) -> None:
    good, bad = pair
    with pytest.raises(DataError, match="no manifest"):
        compare([good, good.parent])
    report = json.loads((bad / "report.json").read_text())
    (bad / "report.json").write_text(json.dumps(report | {"schema_version": 2}))
    with pytest.raises(DataError, match="not a report of schema version 1"):
        compare(pair)
    build(bad)
    (bad / "attacks" / "none-train-s7" / "linear-layer.json").write_text("{")
    with pytest.raises(DataError, match="linear-layer"):
        compare(pair)
