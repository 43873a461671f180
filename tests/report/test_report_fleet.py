"""The report's section on the fleet: what it counts, compares and names, and when it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fleet_run import BUFFERED, SYNC, edit_metrics, traffic, write_fleet_run
from scipy.stats import t

from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.course import meaning, quantity, unit_of
from fedlab.report.participation import left_out, of_classes, of_tenths

TITLE = "Time, traffic, and who takes part"
Q = float(t.ppf(0.975, 1))
"""Of Student's t with two seeds."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    return build(write_fleet_run(tmp_path_factory.mktemp("fleet") / "run"))


def rows(report: AuditReport) -> dict[str, dict[str, Any]]:
    return {row["strategy"]: row for row in report.data["fleet"]["rows"]}


def test_each_strategy_is_told_with_what_the_target_took(fleet: AuditReport) -> None:
    """300 and 310 s: mean 305, and with one degree of freedom t · sd/√2 = t · 5 to either side."""
    assert fleet.data["fleet"]["target"] == {"loss": 0.7} and fleet.data["fleet"]["clock"] == "virtual"
    sync, buffered = rows(fleet)[SYNC], rows(fleet)[BUFFERED]
    assert sync["reached"]["seconds"]["mean"] == 305.0 and sync["reached"]["seeds"] == 2
    assert sync["reached"]["seconds"]["ci95"] == pytest.approx([305 - 5 * Q, 305 + 5 * Q])
    assert buffered["reached"]["uploads"]["mean"] == 105.0
    assert sync["reached"]["bytes"] == {"mean": 690_000.0, "ci95": [690_000.0, 690_000.0]}
    assert sync["total"]["aborted"]["mean"] == 30.0 and sync["total"]["bytes"]["mean"] == 690_000.0


def test_ratios_compare_with_the_first_synchronous_strategy_seed_by_seed(fleet: AuditReport) -> None:
    """300/50 = 6 and 310/62 = 5: mean 5.5, half a unit's spread each way, times t."""
    sync, buffered = rows(fleet)[SYNC], rows(fleet)[BUFFERED]
    assert sync["ratio"] == {"seconds": None, "uploads": None, "bytes": None}
    assert buffered["against"] == SYNC
    assert buffered["ratio"]["seconds"]["mean"] == 5.5
    assert buffered["ratio"]["seconds"]["ci95"] == pytest.approx([5.5 - 0.5 * Q, 5.5 + 0.5 * Q])
    assert buffered["ratio"]["uploads"]["mean"] == pytest.approx((3.3 + 3.0) / 2)
    page = fleet.html.read_text()
    assert "<b>5.5×</b>" in page and "how many times more sync took" in page


def test_staleness_is_pooled_and_set_beside_littles_law(fleet: AuditReport) -> None:
    """Seed 7: (40 + 60)/80 = 1.25; seed 8: (41 + 60)/81; M/K = 20/10."""
    found = rows(fleet)[BUFFERED]["schedule"]
    assert found["staleness"] == [[0, 40], [1, 81], [3, 40]]
    assert found["mean_staleness"]["mean"] == pytest.approx((1.25 + 101 / 81) / 2)
    assert found["expected_staleness"] == 2.0 and found["left_in_buffer"]["mean"] == 5.0
    assert rows(fleet)[SYNC]["schedule"] is None
    assert "counts 1/(1 + s)^exponent as much as a fresh one" in fleet.html.read_text()


def test_tasks_that_share_the_clients_have_no_common_expectation(tmp_path: Path) -> None:
    """Little's law holds for each task with its part of the clients, of which M and K say nothing."""
    run = write_fleet_run(tmp_path / "run")
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    for cell in metrics["cells"].values():
        if cell["schedule"]:
            cell["schedule"]["tasks"] = [{"label": "a"}, {"label": "b"}]
    path.write_text(json.dumps(metrics))
    report = build(run)
    assert rows(report)[BUFFERED]["schedule"]["expected_staleness"] is None
    assert "Little" not in report.html.read_text() and "How stale updates are" in report.html.read_text()


def test_courses_are_the_evaluations(fleet: AuditReport) -> None:
    assert rows(fleet)[BUFFERED]["courses"][1] == {
        "seed": 8,
        "points": [
            {"seconds": 31.0, "uploads": 55, "bytes": 125_000, "loss": 1.1, "accuracy": 0.4},
            {"seconds": 62.0, "uploads": 110, "bytes": 250_000, "loss": 0.7, "accuracy": 0.8},
        ],
    }


def test_who_is_left_out_is_named(fleet: AuditReport) -> None:
    """Under sync a device sends 3.3 on average; 1.0 in the ninth tenth are 30 % of that, 0 in the last."""
    sync, buffered = rows(fleet)[SYNC], rows(fleet)[BUFFERED]
    assert sync["left_out"] == [
        "the ninth and slowest tenths of devices sent 30 % and 0 % of their fair shares of uploads",
        "“old” are 50 % of the devices and sent 10 % of the uploads",
    ]
    assert buffered["left_out"] == [] and buffered["tenths"]["of_fair_share"] == [1.0] * 10
    assert "Left out under sync:" in fleet.html.read_text()


def test_utilisation_is_of_the_seconds_that_a_class_has(fleet: AuditReport) -> None:
    """50 devices of a class are busy for 10 (25) seconds together in each second."""
    new, old = rows(fleet)[SYNC]["classes"]
    assert new["utilisation"] == pytest.approx(0.2) and old["utilisation"] == pytest.approx(0.5)
    assert (old["asked"], old["counted"], old["share_of_uploads"]) == (126, 66, 0.1)


def test_classes_that_the_seed_draws_are_averaged() -> None:
    """40 and 60 of 100 devices are new: half of the fleet, and no device is counted twice."""
    seeds = [traffic(SYNC, 10.0, 200), traffic(SYNC, 10.0, 200)]
    for one, new in zip(seeds, (40, 60), strict=True):
        one["classes"][0]["devices"], one["classes"][1]["devices"] = new, 100 - new
    found = of_classes(seeds)
    assert [(one["devices"], one["share_of_devices"]) for one in found] == [(50, 0.5), (50, 0.5)]
    assert found[0]["utilisation"] == pytest.approx(200.0 / (40 * 10 + 60 * 10))


def test_few_uploads_leave_nobody_out() -> None:
    """A fair share of 19 uploads may be nine by chance; of 20 it is told."""
    for uploads, told in ((190, 0), (200, 1)):
        one = traffic(SYNC, 10.0, uploads) | {"classes": []}
        row = {"tenths": of_tenths([one]), "classes": of_classes([one])}
        assert len(left_out(row)) == told


def test_a_target_that_one_seed_missed_gives_no_ratio(tmp_path: Path) -> None:
    run = write_fleet_run(tmp_path / "run")
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["cells"]["x1-train-s8"]["reached"] = None
    path.write_text(json.dumps(metrics))
    report = build(run)
    buffered = rows(report)[BUFFERED]
    assert buffered["ratio"]["seconds"] is None and buffered["reached"]["seeds"] == 1
    assert buffered["reached"]["seconds"] == {"mean": 50.0, "ci95": None}
    assert "met the target with 1 of 2 seeds" in report.html.read_text()


def test_without_a_target_totals_are_told_and_nothing_is_compared(tmp_path: Path) -> None:
    report = build(write_fleet_run(tmp_path / "run", target=False, seeds=(7,)))
    assert report.data["fleet"]["target"] is None
    assert all(row["ratio"]["seconds"] is None for row in rows(report).values())
    page = report.html.read_text()
    assert "amounts cannot be compared" in page and re.search(r"<span>\s*5 min\s*</span>", page)


def test_a_run_without_traffic_has_no_such_section(report: AuditReport, tmp_path: Path) -> None:
    assert report.data["fleet"] is None and TITLE not in report.html.read_text()
    run = write_fleet_run(tmp_path / "run")
    edit_metrics(run, traffic=None)
    again = build(run)
    assert again.data["fleet"] is None and TITLE not in again.html.read_text()


def test_equal_devices_under_one_synchronous_strategy_are_no_news(run_dir: Path) -> None:
    plain = traffic(SYNC, 10.0, 200)
    plain["classes"] = plain["classes"][:1]
    edit_metrics(run_dir, traffic=plain | {"speeds": {"fastest": 1.0, "median": 1.0, "slowest": 1.0}})
    assert build(run_dir).data["fleet"] is None
    edit_metrics(run_dir, traffic=plain)
    fleet = build(run_dir).data["fleet"]
    assert [(row["strategy"], row["name"]) for row in fleet["rows"]] == [("", "fedavg")] * 3


def test_damaged_traffic_is_named(tmp_path: Path) -> None:
    run = write_fleet_run(tmp_path / "run")
    edit_metrics(run, traffic={"classes": 3})
    with pytest.raises(DataError, match=r"metrics\.json"):
        build(run)


def test_numbers_in_words() -> None:
    assert quantity(305.0, "seconds") == "5 min 5 s" and quantity(690e3, "bytes") == "690 kB"
    assert quantity(31300.4, "uploads") == "31 300" and quantity(5.54, "times") == "5.5×"
    assert quantity(0.836, "times") == "0.84×" and quantity(12.64, "number") == "12.6"
    assert unit_of(7300.0, "seconds") == (3600.0, "hours") and unit_of(119.0, "seconds") == (1.0, "seconds")
    assert unit_of(0.0, "bytes") == (1.0, "B")
    assert meaning("threshold (cutoff 5)").startswith(": an update counts in full") and meaning("mine") == ""
    assert meaning("Polynomial(exponent=0.5)") == meaning("polynomial (exponent 0.5)") != ""


def test_of_thousands_of_clients_some_are_drawn_and_none_is_lost(tmp_path: Path) -> None:
    run = write_fleet_run(tmp_path / "run", seeds=(7,))
    edit_metrics(run, per_client=[{"client": i, "records": 9, "accuracy": i / 5000} for i in range(2000)])
    report = build(run)
    assert len(report.data["utility"][0]["per_client"]["values"]) == 2000
    page = report.html.read_text()
    assert "of more than 300, so many, evenly by rank" in page and len(page) < 700_000
