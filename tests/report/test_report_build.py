"""report.json: its contract, its sums, and what it refuses to claim."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import write_run
from scipy.stats import t

from fedlab.errors import BackendError, DataError
from fedlab.report import AuditReport, build

ROW = {
    "attack", "defense", "client_mode", "psnr_median", "psnr_max", "psnr_mean", "psnr_ci95", "ssim_median",
    "label_accuracy", "fraction_recovered", "victims", "refused", "refusal", "control", "seeds", "threat",
}  # fmt: skip


def row(data: dict[str, Any], attack: str, defense: str, mode: str = "train") -> dict[str, Any]:
    found = [
        one
        for one in data["attacks"]
        if (one["attack"], one["defense"], one["client_mode"]) == (attack, defense, mode)
    ]
    assert len(found) == 1
    return dict(found[0])


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_the_document_has_what_readers_rely_on(report: AuditReport) -> None:
    data = report.data
    assert data["schema_version"] == 1
    assert all(one.keys() >= ROW for one in data["attacks"]) and len(data["attacks"]) == 12
    control = {"psnr_median", "psnr_max", "ssim_median", "label_accuracy", "fraction_recovered", "victims"}
    assert all(one["control"].keys() >= control for one in data["attacks"])
    assert data["verdict"].keys() == {"headline", "findings"}
    assert data["threat_models"].keys() == {"tested", "not_tested"}
    assert {"name", "claim", "dataset", "model", "command", "versions", "seeds", "cells"} <= data[
        "run"
    ].keys()
    assert len(data["limits"]) >= 4
    assert {one["defense"] for one in data["guarantees"]} == {"none", "dp-sgd", "no-first-bias"}


def test_a_stack_is_told_in_words(run_dir: Path) -> None:
    scenario = run_dir / "scenario.toml"
    plain, stacked = 'name = "dp-sgd"\n', 'name = "stack"\nlabel = "dp-sgd"\nof = '
    assert plain in scenario.read_text()
    parts = (
        '[{ name = "protocol", batch_size = 64 }, { name = "none" }, { name = "dp-sgd", epsilon = 8.0 }]\n'
    )
    scenario.write_text(scenario.read_text().replace(plain, stacked + parts))
    settings = {one["defense"]: one["settings"] for one in build(run_dir).data["verdict"]["findings"]}
    assert settings["dp-sgd"] == "protocol (batch_size 64) + none + dp-sgd (epsilon 8)"


def test_the_written_files_are_the_returned_ones(report: AuditReport) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(report.json.read_text(), parse_constant=no_constant) == report.data
    assert AuditReport.load(report.directory) == report


def test_same_run_same_bytes(report: AuditReport, run_dir: Path) -> None:
    before = report.json.read_bytes(), report.html.read_bytes()
    for _ in range(2):
        again = build(run_dir)
        assert (again.json.read_bytes(), again.html.read_bytes()) == before


def test_the_manifests_clock_does_not_reach_the_report(report: AuditReport, run_dir: Path) -> None:
    edit(run_dir / "manifest.json", lambda m: m.update(started="1999", finished="2000"))
    assert build(run_dir).html.read_bytes() == report.html.read_bytes()


def test_scores_are_those_of_the_files(report: AuditReport) -> None:
    path = report.directory / "attacks" / "none-train-s7" / "dropout-inversion.json"
    victims = json.loads(path.read_text())["victims"]
    values = [value for one in victims for value in one["psnr"]]
    found = row(report.data, "dropout-inversion", "none")
    assert found["psnr_median"] == pytest.approx(np.median(values))
    assert found["psnr_max"] == max(values)
    assert found["fraction_recovered"] == np.mean(np.array(values) >= 20.0) == 1.0
    assert (found["victims"], found["recovered"], found["label_accuracy"]) == (8, 8, 1.0)
    assert found["control"]["psnr_median"] < 10
    assert (found["level"], found["symbol"]) == ("copy", "●")


def test_an_attack_that_refuses_has_nulls_and_its_reason(report: AuditReport) -> None:
    found = row(report.data, "linear-layer", "no-first-bias")
    assert (
        found["psnr_median"] is found["psnr_max"] is found["psnr_ci95"] is found["fraction_recovered"] is None
    )
    assert (found["victims"], found["refused"], found["level"]) == (8, 8, "refused")
    assert "no bias" in found["refusal"]


def test_an_attack_without_the_knowledge_counts_its_victims_as_refused(run_dir: Path) -> None:
    path = run_dir / "attacks" / "none-train-s7" / "linear-layer.json"
    edit(path, lambda a: a.update(victims=[], control=[], error="LinearLayer needs labels"))
    found = row(build(run_dir).data, "linear-layer", "none")
    assert (found["victims"], found["refused"], found["refusal"]) == (8, 8, "LinearLayer needs labels")


def test_granted_labels_were_not_recovered(run_dir: Path) -> None:
    path = run_dir / "attacks" / "none-train-s7" / "linear-layer.json"
    edit(path, lambda a: a["threat"].update(labels=True))
    found = row(build(run_dir).data, "linear-layer", "none")
    assert found["labels_granted"] is True
    assert found["label_accuracy"] is found["control"]["label_accuracy"] is None


def test_seeds_are_pooled_and_modes_kept_apart(tmp_path: Path) -> None:
    directory = write_run(
        tmp_path / "run", seeds=(7, 8), modes=("train", "eval"), defenses=("none", "dp-sgd")
    )
    data = build(directory).data
    found = row(data, "dropout-inversion", "none", "eval")
    assert (found["victims"], found["seeds"]) == (16, [7, 8])
    utility = next(u for u in data["utility"] if (u["defense"], u["client_mode"]) == ("none", "eval"))
    # Accuracies 0.944 and 0.954: mean 0.949, standard error 0.005, one degree of freedom.
    half = float(t.ppf(0.975, 1)) * 0.005
    assert utility["accuracy"] == pytest.approx(0.949)
    assert utility["accuracy_ci95"] == pytest.approx([max(0.0, 0.949 - half), min(1.0, 0.949 + half)])
    assert len(utility["per_client"]["values"]) == 40


def test_utility_by_hand(report: AuditReport) -> None:
    rows = {one["defense"]: one for one in report.data["utility"]}
    clients = json.loads((report.directory / "metrics.json").read_text())["cells"]["dp-sgd-train-s7"][
        "per_client"
    ]
    values = [one["accuracy"] for one in clients]
    spread = rows["dp-sgd"]["per_client"]
    assert (spread["worst"], spread["median"]) == (min(values), pytest.approx(np.median(values)))
    assert spread["p10"] == pytest.approx(np.quantile(values, 0.1))
    assert rows["none"]["accuracy_cost"] == 0.0
    assert rows["dp-sgd"]["accuracy_cost"] == pytest.approx(0.944 - 0.717)
    low, high = rows["dp-sgd"]["accuracy_ci95"]
    assert low < 0.717 < high and rows["dp-sgd"]["accuracy_ci95_kind"] == "360 test records"


def test_epsilon_is_the_worst_over_clients(run_dir: Path) -> None:
    edit(run_dir / "privacy" / "dp-sgd-train-s7.json", lambda g: g.update(per_client={"0": 1.0, "1": 9.5}))
    found = {one["defense"]: one for one in build(run_dir).data["guarantees"]}
    assert found["dp-sgd"]["epsilon"] == 9.5
    assert found["none"]["epsilon"] is found["none"]["delta"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": float("inf")},
        {"epsilon": None, "reason": "the batches were shuffled, not Poisson"},
        {"assumptions": [{"text": "Poisson sampling", "holds": False}]},
    ],
)
def test_no_guarantee_rather_than_a_wrong_one(run_dir: Path, change: dict[str, Any]) -> None:
    edit(run_dir / "privacy" / "dp-sgd-train-s7.json", lambda g: g.update(change))
    report = build(run_dir)
    found = next(one for one in report.data["guarantees"] if one["defense"] == "dp-sgd")
    assert found["epsilon"] is None and found["reason"]
    assert "ε = " not in report.html.read_text()


def test_a_missing_ledger_is_no_guarantee(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "privacy")
    assert all(one["epsilon"] is None and one["reason"] for one in build(run_dir).data["guarantees"])


def test_a_run_that_stopped_says_so(run_dir: Path) -> None:
    (run_dir / "metrics.json").unlink()
    shutil.rmtree(run_dir / "attacks")
    edit(run_dir / "manifest.json", lambda m: m.update(status="interrupted"))
    report = build(run_dir)
    assert report.data["attacks"] == report.data["utility"] == []
    assert "interrupted" in report.data["limits"][0]
    assert "This run is marked “interrupted”" in report.html.read_text()
    assert "No attack was scored" in report.html.read_text()


def test_nan_becomes_null(run_dir: Path) -> None:
    path = run_dir / "attacks" / "none-train-s7" / "linear-layer.json"
    path.write_text(path.read_text().replace('"residual": 3e-08', '"residual": NaN'))
    edit(run_dir / "metrics.json", lambda m: m["cells"]["none-train-s7"].update(loss=float("nan")))
    utility = build(run_dir).data["utility"]
    assert next(one for one in utility if one["defense"] == "none")["loss"] is None


def test_a_directory_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json"):
        build(tmp_path)
    with pytest.raises(DataError, match="fedlab report"):
        AuditReport.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("manifest.json", '{"cells": [{"name": "x"}]}'),
        ("metrics.json", '{"cells": {"none-train-s7": {}}}'),
        ("scenario.toml", "= ="),
        ("attacks/none-train-s7/linear-layer.json", '{"victims": []}'),
        ("attacks/none-train-s7/linear-layer.json", '{"attack": "a", "seed": 7, "victims": [{"psnr": 3}]}'),
        ("privacy/none-train-s7.json", "[" * 100_000),
        ("truth/none-train-s7.safetensors", "not a tensor"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(run_dir: Path, name: str, content: str) -> None:
    (run_dir / "report.html").unlink()
    (run_dir / name).write_text(content)
    with pytest.raises(DataError):
        build(run_dir)
    assert not (run_dir / "report.html").exists()
    assert not list(run_dir.glob(".report*"))


def test_a_report_that_cannot_be_written_leaves_nothing_half_done(run_dir: Path) -> None:
    (run_dir / "report.html").unlink()
    (run_dir / "report.html").mkdir()
    with pytest.raises(BackendError, match="cannot write"):
        build(run_dir)
    assert not list(run_dir.glob(".report*"))
