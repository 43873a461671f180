"""A report on several strategies keeps them apart, and one on a single strategy does not mention it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.cli.tables import summary
from fedlab.report import AuditReport, build
from fedlab.report.reading import namer, subject

SEVERAL: dict[str, dict[str, Any]] = {
    "sync": {"cohort": 8, "local_rule": {"name": "fedprox", "mu": 0.1}},
    "fedbuff": {"name": "fedbuff", "rounds": 900, "options": {"concurrency": 30}},
}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """Read only: two strategies, two defenses, two client modes."""
    folder = tmp_path_factory.mktemp("several") / "run"
    modes = ("train", "eval")
    return build(write_run(folder, strategies=SEVERAL, modes=modes, defenses=("none", "dp-sgd")))


def text(report: AuditReport) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report.html.read_text()))


def test_every_row_has_its_strategy_and_its_own_numbers(several: AuditReport) -> None:
    data = several.data
    axes = [(a, d, m) for a in SEVERAL for d in ("none", "dp-sgd") for m in ("train", "eval")]
    for rows in (data["utility"], data["guarantees"], data["verdict"]["findings"]):
        assert [(row["strategy"], row["defense"], row["client_mode"]) for row in rows] == axes
    assert len(data["attacks"]) == 4 * len(axes) and all(row["models"] == 1 for row in data["attacks"])
    accuracy = {(row["strategy"], row["defense"]): row["accuracy"] for row in data["utility"]}
    assert accuracy == pytest.approx(
        {("sync", "none"): 0.944, ("sync", "dp-sgd"): 0.717}
        | {("fedbuff", "none"): 0.844, ("fedbuff", "dp-sgd"): 0.617}
    )


def test_a_defense_costs_what_it_costs_under_the_same_strategy(several: AuditReport) -> None:
    """0.944 − 0.717 and 0.844 − 0.617; against the other strategy's baseline it would be 0.327."""
    costs = [row["accuracy_cost"] for row in several.data["utility"]]
    assert costs == pytest.approx([0.0, 0.0, 0.227, 0.227] * 2)


def test_the_set_up_says_in_what_strategies_differ(several: AuditReport) -> None:
    setup = several.data["run"]["setup"]
    assert setup["strategy"] == "sync: fedavg; fedbuff: fedbuff"
    assert setup["rounds"] == "sync: 400; fedbuff: 900"
    assert setup["clients per round"] == "sync: 8; fedbuff: 10"
    assert setup["options"] == "fedbuff: concurrency 30" and setup["aggregator"] == "weighted-mean"
    assert setup["local rule"] == "sync: fedprox (mu 0.1)"
    assert "the local rule fedprox sends" in " ".join(several.data["limits"])


def test_the_page_has_a_column_for_strategies_and_a_table_for_each(several: AuditReport) -> None:
    page = several.html.read_text()
    assert '<th scope="col">Strategy</th><th scope="col">Defense</th>' in page
    assert page.count('<td data-label="Strategy">sync</td>') == 4
    told = text(several)
    for words in (
        "fedbuff, clients in training mode",
        "sync, clients in inference mode",
        "fedbuff, dp-sgd",
    ):
        assert words in told
    assert [column.header for column in summary(several.data).columns][:3] == [
        "strategy",
        "defense",
        "clients",
    ]


def test_a_report_on_one_strategy_looks_as_before(
    report: AuditReport, tmp_path: Path, several: AuditReport
) -> None:
    for one in (report, build(write_run(tmp_path / "x", strategies={"only": {}}, defenses=("none",)))):
        assert "Strategy</th>" not in one.html.read_text()
        assert "strategy" not in [column.header for column in summary(one.data).columns]
    assert {row["strategy"] for row in report.data["attacks"]} == {""}
    # Rows that an older version has written name no strategy.
    old = {
        key: [{k: v for k, v in row.items() if k != "strategy"} for row in report.data[key]]
        for key in ("attacks", "utility", "guarantees")
    } | {"run": report.data["run"]}
    assert summary(old).row_count == summary(report.data).row_count == 12


def test_pictures_are_sorted_by_strategy(several: AuditReport) -> None:
    page = several.html.read_text()
    captions = re.findall(r"<figcaption>(.*?) <span", page)
    assert captions == [
        f"{strategy}, {defense}" for strategy in SEVERAL for defense in ("none",) * 2 + ("dp-sgd",) * 2
    ]


def test_what_a_row_is_called() -> None:
    def cell(strategy: str, defense: str, mode: str = "train") -> dict[str, str]:
        return {"strategy": strategy, "defense": defense, "client_mode": mode}

    row = cell("fedbuff", "dp-sgd")
    assert namer([row])(row) == "dp-sgd"
    assert namer([row, cell("sync", "dp-sgd")])(row) == "fedbuff"
    assert namer([row, cell("fedbuff", "none")])(row) == "dp-sgd"
    assert namer([row, cell("sync", "none")])(row) == "fedbuff/dp-sgd"
    everything = [row, cell("sync", "none", "eval")]
    assert namer(everything)(row) == "fedbuff/dp-sgd in training mode"
    assert namer(everything, ", ")(row) == "fedbuff/dp-sgd, training mode"
    assert namer([{"defense": "none", "client_mode": "train"}])(cell("", "none")) == "none"
    assert subject(row, set()) == "clients under dp-sgd in training mode (strategy fedbuff)"
