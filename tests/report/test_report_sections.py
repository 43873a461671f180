"""The further rows of the report: what they hold, by hand, and when they say nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_run import GAIN, checks, edit, write_audited
from scipy.stats import t

from fedlab.audit.scoring import binomial_interval
from fedlab.report import AuditReport, build
from fedlab.report.frontier import frontier

CHECKS = "privacy/dp-sgd-train-s7.checks.json"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """Read only."""
    return build(write_audited(tmp_path_factory.mktemp("audited") / "run"))


@pytest.fixture
def copy(audited: AuditReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(audited.directory, tmp_path / "run"))


def of(rows: list[dict[str, Any]], defense: str) -> dict[str, Any]:
    return next(one for one in rows if one["defense"] == defense)


def test_a_run_of_an_older_version_has_empty_sections(report: AuditReport) -> None:
    data = report.data
    assert data["alarms"] == data["gates"] == data["adaptive"] == data["checks"] == data["warnings"] == []
    assert data["scope"]["clients"] == 20 and [one["role"] for one in data["scope"]["roles"]]
    only = data["proofs"]
    assert [one["defense"] for one in only] == ["dp-sgd"]
    assert only[0]["course"] == only[0]["curve"] == only[0]["cross_check"] == only[0]["beside"] == []
    assert 'id="adaptive"' not in report.html.read_text()


def test_every_link_of_the_contents_leads_to_its_section(audited: AuditReport) -> None:
    page = audited.html.read_text()
    for name in ("scope", "threats", "guarantees", "checks", "gallery", "frontier", "matrix", "adaptive",
                 "utility", "exposure", "recommendations", "reproduce", "glossary", "annex"):  # fmt: skip
        assert f'id="{name}"' in page


def rows_of(points: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Frontier rows of defenses at (accuracy, leak in dB)."""
    place = {"strategy": "", "client_mode": "train"}
    attacks = [
        {
            **place, "attack": "a", "defense": name, "threat_label": "", "level": "above",
            "psnr_median": leak, "psnr_max": leak, "recovered": 0, "images": 8, "fraction_recovered": 0.0,
            "fraction_ci95": None,
            "control": {"psnr_median": 5.0},
        }
        for name, (_, leak) in points.items()
    ]  # fmt: skip
    utility = [
        {**place, "defense": name, "accuracy": accuracy, "accuracy_ci95": None, "accuracy_cost": None}
        for name, (accuracy, _) in points.items()
    ]
    return frontier(attacks, utility, [], {"none"})


def test_the_frontier_by_hand() -> None:
    found = rows_of(
        {
            "none": (0.9, 150.0),
            "same": (0.9, 61.0),  # no eye can tell 61 dB from 150
            "worse": (0.85, 80.0),
            "middle": (0.8, 20.0),
            "tie": (0.8, 20.0),
            "beaten": (0.7, 20.0),
            "least": (0.5, 6.0),
        }
    )
    assert [one["defense"] for one in found if one["efficient"]] == ["none", "same", "middle", "tie", "least"]
    assert [one["defense"] for one in found if one["undefended"]] == ["none"]


def test_knowing_the_defense_is_a_paired_difference(audited: AuditReport) -> None:
    (row,) = audited.data["adaptive"]
    assert (row["defense"], row["attack"]) == ("no-first-bias", "inverting-gradients")
    assert row["difference"] == pytest.approx(GAIN) and row["difference_ci95"] == pytest.approx([GAIN, GAIN])
    assert row["informed"]["psnr_median"] - row["unaware"]["psnr_median"] == pytest.approx(GAIN)
    assert row["text"] == "knowing the defense gives the attacker 6.0 dB more"
    # Who knows less is neither the verdict's attacker nor a piece of knowledge, nor a stronger one.
    assert audited.data["knowledge"] == [] and not [x for x in audited.data["limits"] if "further" in x]
    assert not [x for x in audited.data["threat_models"]["tested"] if "does not know the def" in x]


def test_exposure_is_the_best_that_any_attack_made_of_a_record(audited: AuditReport) -> None:
    found = of(audited.data["exposure"], "no-first-bias")
    folder = audited.directory / "attacks" / "no-first-bias-train-s7"
    best: dict[int, float] = {}
    for path in folder.glob("*.json"):
        for one in json.loads(path.read_text())["victims"]:
            if "unaware" not in path.stem and one["psnr"][0] is not None:
                best[one["client"]] = max(best.get(one["client"], 0.0), one["psnr"][0])
    assert {int(one["client"]): one["psnr_max"] for one in found["clients"]} == best
    worst = max(best, key=lambda client: best[client])
    assert found["clients"][0]["client"] == found["records"][0]["client"] == str(worst)
    truth = json.loads((audited.directory / "truth" / "no-first-bias-train-s7.json").read_text())["victims"]
    ids = {one["client"]: one["record_ids"][0] for one in truth}
    assert found["records"][0]["record"] == ids[worst]
    assert (
        sum(one["records"] for one in found["classes"])
        == sum(one["records"] for one in found["clients"])
        == 8
    )
    assert of(audited.data["exposure"], "dp-sgd")["clients"][0].keys() >= {"epsilon", "accuracy"}
    epsilons = {one["client"]: one["epsilon"] for one in of(audited.data["exposure"], "dp-sgd")["clients"]}
    assert epsilons["0"] == 7.8412 and epsilons["5"] is None


def test_the_cost_interval_of_one_seed_adds_two_independent_ones(audited: AuditReport) -> None:
    row = of(audited.data["cost"], "dp-sgd")
    low, high = binomial_interval(round(0.717 * 360), 360)
    base_low, base_high = binomial_interval(round(0.944 * 360), 360)
    gap = 0.944 - 0.717
    expected = [
        gap - math.hypot(0.944 - base_low, high - 0.717),
        gap + math.hypot(base_high - 0.944, 0.717 - low),
    ]
    assert row["accuracy_cost_ci95"] == pytest.approx(expected)
    assert of(audited.data["cost"], "none")["accuracy_cost_ci95"] is None
    assert (row["values"], row["sent"], row["uplink_bytes"]) == (2, 340_008.0, 340_008.0)
    assert of(audited.data["cost"], "no-first-bias")["uplink_bytes"] == 85_002.0


def test_the_cost_interval_of_several_seeds_is_paired(tmp_path: Path) -> None:
    out = write_audited(tmp_path / "run", seeds=(7, 8, 9), defenses=("none", "dp-sgd"))
    gaps = [0.20, 0.23, 0.29]
    for seed, gap in zip((7, 8, 9), gaps, strict=True):
        edit(
            out / "metrics.json",
            lambda m, seed=seed, gap=gap: m["cells"][f"dp-sgd-train-s{seed}"].update(
                accuracy=m["cells"][f"none-train-s{seed}"]["accuracy"] - gap
            ),
        )
    row = of(build(out).data["cost"], "dp-sgd")
    half = float(t.ppf(0.975, 2)) * float(np.std(gaps, ddof=1)) / math.sqrt(3)
    assert row["accuracy_cost_ci95"] == pytest.approx([0.24 - half, 0.24 + half])
    assert row["accuracy_cost_ci95_kind"] == "3 seeds, in pairs"


def test_the_proof_in_full(audited: AuditReport) -> None:
    (row,) = audited.data["proofs"]
    assert row["curve"] == [[1e-5, 7.8412], [1e-3, 5.1]] and row["course"] == [[200, 5.2], [400, 7.8412]]
    assert row["participations"] == {"lowest": 170, "median": 190, "highest": 210}
    assert row["beside"][0]["epsilon"] is None  # its assumption is broken
    page = audited.html.read_text()
    assert "PLD (dp-accounting 0.6.0): 7.82" in page and "never to be added up" in page
    assert "60\u00a0%" in page and "70\u00a0%" in page  # γ at κ = 0.1, and its upper bound


def test_what_was_checked(audited: AuditReport) -> None:
    (row,) = audited.data["checks"]
    assert [one["verdict"] for one in row["checks"]] == ["passed", "not tested"]
    assert [one["kappa"] for one in row["rero"]] == [0.001, 0.1]
    assert row["one_run"][0]["epsilon_hat"] == 0.52 and row["alarms"] == []
    assert row["epsilon"] == row["claimed"] == 7.8412


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alarm": "noise: halved"}, "noise: halved"),
        ({"one_run": checks()["one_run"] | {"epsilon_hat": 9.0}}, "lower bound 9.00"),
    ],
)
def test_an_alarm_takes_the_guarantee_away(copy: Path, change: dict[str, Any], words: str) -> None:
    edit(copy / CHECKS, lambda found: found.update(change))
    report = build(copy)
    data, page = report.data, report.html.read_text()
    assert len(data["alarms"]) == 1 and words in data["alarms"][0]
    row = of(data["guarantees"], "dp-sgd")
    assert (row["epsilon"], row["claimed"]) == (None, 7.8412) and words in row["reason"]
    assert of(data["verdict"]["findings"], "dp-sgd")["epsilon"] is None
    assert data["recommendations"][0]["kind"] == "alarm"
    # Nothing of what it claimed is drawn, and the alarm stands above the verdict.
    assert data["proofs"][0]["curve"] == data["proofs"][0]["course"] == []
    assert page.index('role="alert"') < page.index('id="verdict"')
    assert of(data["frontier"], "dp-sgd")["epsilon"] is None
    (row,) = data["checks"]
    assert row["rero"] == [] and "raised an alarm" in row["why_no_rero"]
    assert "No bound on reconstruction is told" in page


def test_why_no_chance_of_reconstruction_is_told(copy: Path) -> None:
    edit(copy / CHECKS, lambda found: found.update(rero=[], why_no_rero="an assumption of the proof fails"))
    report = build(copy)
    assert report.data["checks"][0]["why_no_rero"] == "an assumption of the proof fails"
    assert "told: an assumption of the proof fails." in report.html.read_text()


def test_a_warning_is_told_once_and_half_a_line_is_no_harm(audited: AuditReport) -> None:
    assert audited.data["warnings"] == [
        {"text": "δ is large for so few records", "cells": ["dp-sgd-train-s7"]}
    ]


def test_the_matrix_has_every_cell(audited: AuditReport) -> None:
    (table,) = audited.data["matrix"]
    assert table["attacks"] == ["linear-layer", "dropout-inversion", "inverting-gradients", "label-recovery"]
    cells = {row["defense"]: row["cells"] for row in table["rows"]}
    assert cells["none"][0]["certified"] == ["linear layer"] and cells["dp-sgd"][0]["certified"] == []
    assert cells["no-first-bias"][0]["level"] == "refused"


def test_an_attack_of_one_defense_leaves_other_cells_empty(copy: Path) -> None:
    for cell in ("none", "dp-sgd"):
        path = copy / "attacks" / f"{cell}-train-s7" / "label-recovery.json"
        path.rename(path.with_name("label-recovery.old"))
    edit(copy / "manifest.json", lambda found: found.update(status="interrupted"))
    (table,) = build(copy).data["matrix"]
    assert [row["cells"][3] is None for row in table["rows"]] == [True, True, False]


def test_sums_are_told_as_what_the_server_sees(copy: Path) -> None:
    def summed(truth: dict[str, Any]) -> None:
        for one in truth["victims"]:
            one["clients"] = [one["client"], one["client"] + 10]

    edit(copy / "truth" / "no-first-bias-train-s7.json", summed)
    data = build(copy).data
    assert {one["defense"]: one["sees"] for one in data["scope"]["sees"]}["no-first-bias"] == "sums"
    assert "under no-first-bias only the sum" in data["scope"]["roles"][1]["sees"]
    assert of(data["exposure"], "no-first-bias")["clients"][0]["client"].count("+") == 1
