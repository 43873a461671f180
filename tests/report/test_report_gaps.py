"""What is missing from a run must not pass for protection: crashes, lost updates, lost files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_run

from fedlab.errors import DataError
from fedlab.report import AuditReport, build
from fedlab.report.course import duration

CELL = "none-train-s7"
CRASH = "the attack failed: TypeError: unsupported operand"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def crash(run: Path, attack: str, cell: str = CELL, error: str = CRASH, **more: Any) -> None:
    """Leave of one attack on one cell what a crash leaves."""
    fields = {"victims": [], "control": [], "error": error, "failed": True} | more
    edit(run / "attacks" / cell / f"{attack}.json", lambda file: file.update(fields))


def row(data: dict[str, Any], attack: str, defense: str = "none") -> dict[str, Any]:
    (found,) = (one for one in data["attacks"] if (one["attack"], one["defense"]) == (attack, defense))
    return dict(found)


def told(data: dict[str, Any], text: str) -> list[str]:
    return [one for one in data["limits"] if text in one]


def test_a_crashed_attack_is_no_refusal(run_dir: Path) -> None:
    crash(run_dir, "linear-layer")
    report = build(run_dir)
    found = row(report.data, "linear-layer")
    assert (found["level"], found["symbol"], found["reading"]) == ("failed", "!", "attack failed")
    assert (found["failed"], found["models"], found["error"]) == (1, 1, CRASH)
    assert (found["victims"], found["refused"], found["refusal"]) == (8, 0, None)
    assert f'<span class="why">{CRASH}</span>' in report.html.read_text()
    finding = next(one for one in report.data["verdict"]["findings"] if one["defense"] == "none")
    assert "nothing is known of what it takes: linear-layer" in finding["leakage"]
    assert "Not applicable" not in finding["leakage"]


def test_the_limits_count_crashes_and_name_them(run_dir: Path) -> None:
    crash(run_dir, "linear-layer")
    crash(run_dir, "dropout-inversion", "dp-sgd-train-s7")
    (text,) = told(build(run_dir).data, "contract")
    assert text.startswith("2 attacks of 12 ")
    assert "linear-layer on none, dropout-inversion on dp-sgd." in text


def test_without_a_crash_the_limits_are_silent_about_it(report: AuditReport) -> None:
    assert not told(report.data, "contract") and not told(report.data, "never reached the server")


@pytest.mark.parametrize(
    ("error", "failed", "level"),
    [
        (CRASH, None, "failed"),  # None: an older run, which has no such key
        ("linear-layer needs labels, which the threat model denies", None, "refused"),
        ("linear-layer broke its contract", True, "failed"),
        ("the attack failed to find a layer that it applies to", False, "refused"),
        (None, True, "failed"),
    ],
)
def test_what_counts_as_a_crash(run_dir: Path, error: str | None, failed: bool | None, level: str) -> None:
    crash(run_dir, "linear-layer", error=error or "", failed=failed)
    if failed is None:
        edit(run_dir / "attacks" / CELL / "linear-layer.json", lambda file: file.pop("failed"))
    assert row(build(run_dir).data, "linear-layer")["level"] == level


def test_a_crash_in_one_seed_leaves_the_scores_of_the_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(7, 8), defenses=("none",))
    crash(run, "linear-layer")
    report = build(run)
    found = row(report.data, "linear-layer")
    assert (found["level"], found["failed"], found["models"]) == ("copy", 1, 2)
    # Eight victims of each seed; those of the crash were neither scored nor declined.
    assert (found["victims"], found["images"], found["recovered"], found["refused"]) == (16, 8, 8, 0)
    assert f"not scored in 1 of 2 trained models: {CRASH}" in report.html.read_text()
    assert "linear-layer on none (1 of 2 trained models)" in told(report.data, "contract")[0]


def test_where_every_attack_crashed_nothing_counts_as_tested(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", defenses=("none",), samples=False)
    attacks = [path.stem for path in (run / "attacks" / CELL).glob("*.json")]
    for attack in attacks:
        crash(run, attack)
    report = build(run)
    assert report.data["threat_models"]["tested"] == []
    assert report.data["verdict"]["findings"][0]["level"] == "failed"
    headline = report.data["verdict"]["headline"]
    assert "nothing was measured" in headline and all(name in headline for name in attacks)
    assert "not measured</dd>" in report.html.read_text()


def test_no_eligible_victim_is_a_reading_of_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", defenses=("dp-sgd",))
    cell = "dp-sgd-train-s7"
    edit(run / "truth" / f"{cell}.json", lambda truth: truth.update(victims=[], eligible=0))
    for path in (run / "attacks" / cell).glob("*.json"):
        edit(path, lambda file: file.update(victims=[], control=[]))
    report = build(run)
    assert {one["level"] for one in report.data["attacks"]} == {"unattacked"}
    found = row(report.data, "linear-layer", "dp-sgd")
    assert (found["symbol"], found["reading"], found["victims"]) == ("∅", "no victim", 0)
    assert "no observed update was eligible" in found["refusal"] and "observe more rounds" in found["refusal"]
    assert report.html.read_text().count(found["refusal"]) == 4  # a cell of the matrix per attack
    assert report.data["verdict"]["findings"][0]["level"] == "unattacked"
    assert told(report.data, "none of 40 observed updates was eligible (15 came from empty batches)")
    assert report.data["threat_models"]["tested"] == []


def test_failed_clients_are_told(run_dir: Path) -> None:
    edit(run_dir / "metrics.json", lambda m: m["cells"][CELL].update(failures=3))
    edit(run_dir / "metrics.json", lambda m: m["cells"]["dp-sgd-train-s7"].update(failures=1))
    (text,) = told(build(run_dir).data, "never reached the server")
    assert text.startswith("4 client updates failed") and "(none: 3, dp-sgd: 1)" in text


def test_updates_turned_away_and_rounds_without_a_quorum_are_told(run_dir: Path) -> None:
    lost = {"rejected": {"not-finite": 2, "shape": 1}, "skipped_rounds": 2}
    edit(run_dir / "metrics.json", lambda m: m["cells"][CELL].update(lost))
    edit(run_dir / "metrics.json", lambda m: m["cells"]["dp-sgd-train-s7"].update(rejected={"<b>": 1}))
    report = build(run_dir)
    (text,) = told(report.data, "turned away")
    assert text.startswith("4 client updates reached the server but were turned away")
    assert "(none: 2 with NaN or infinity, 1 of wrong shape; dp-sgd: 1 <b>)" in text
    assert "1 &lt;b&gt;" in report.html.read_text(), "a kind that we do not know is shown, and is no markup"
    (text,) = told(report.data, "enough usable updates")
    # Three defenses of four rounds each.
    assert text.startswith("2 of 12 rounds brought nothing") and "(none: 2 of 4)" in text
    assert "Clients sent NaN or infinity (under none): training probably diverged there" in text
    rows = {one["defense"]: one for one in report.data["utility"]}
    assert rows["none"]["rejected"] == lost["rejected"] and rows["none"]["skipped_rounds"] == 2
    assert rows["no-first-bias"]["rejected"] == {} and rows["no-first-bias"]["skipped_rounds"] == 0


def test_rounds_that_brought_nothing_are_not_called_divergence_without_a_sign_of_it(run_dir: Path) -> None:
    edit(run_dir / "metrics.json", lambda m: m["cells"][CELL].update(skipped_rounds=1, rejected={"keys": 1}))
    # Elsewhere there is a NaN, but no round was lost to it.
    edit(run_dir / "metrics.json", lambda m: m["cells"]["dp-sgd-train-s7"].update(rejected={"not-finite": 1}))
    (text,) = told(build(run_dir).data, "enough usable updates")
    assert text.startswith("1 of 12 rounds") and "diverged" not in text


def test_updates_that_came_too_late_and_clients_that_never_contributed_are_told(run_dir: Path) -> None:
    slow = {"asked": 40, "late": 13, "stopped": 0, "never_contributed": [3, 7]}
    many = {"asked": 40, "late": 0, "stopped": 1, "never_contributed": list(range(11))}
    edit(run_dir / "metrics.json", lambda m: m["cells"][CELL].update(slow))
    edit(run_dir / "metrics.json", lambda m: m["cells"]["dp-sgd-train-s7"].update(many))
    report = build(run_dir)
    (text,) = told(report.data, "too late")
    assert text.startswith("13 updates ") and "(none: 13 of 40)" in text
    (text,) = told(report.data, "enough others had come")
    assert text.startswith("1 update ") and "(dp-sgd: 1 of 40)" in text
    (text,) = told(report.data, "never contributed")
    assert "(none: clients 3 and 7; dp-sgd: 11 clients)" in text
    rows = {one["defense"]: one for one in report.data["utility"]}
    assert {key: rows["none"][key] for key in slow} == slow
    assert rows["no-first-bias"]["late"] == 0 and rows["no-first-bias"]["never_contributed"] == []


def test_training_that_ended_early_is_told_unless_it_had_met_its_target(run_dir: Path) -> None:
    why = "every client was asked 2 times (max_participations)"

    def ended(reached: object) -> list[str]:
        change = {"ended": why, "reached": reached}
        edit(run_dir / "metrics.json", lambda metrics: metrics["cells"][CELL].update(change))
        return told(build(run_dir).data, "ended before its last round")

    assert ended({"round": 3}) == []
    (text,) = ended(None)
    assert f"(none: {why})" in text


def test_clients_that_never_contributed_are_those_of_any_seed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(7, 8), defenses=("none",))
    for seed, clients in ((7, [2, 4]), (8, [4])):
        change = {"asked": 8, "late": 3, "never_contributed": clients}
        edit(run / "metrics.json", lambda m, s=seed, c=change: m["cells"][f"none-train-s{s}"].update(c))  # type: ignore[misc]
    data = build(run).data
    assert told(data, "(none: 6 of 16)") and told(data, "at least one seed (none: clients 2 and 4)")


def test_where_no_update_was_observed_the_advice_is_another(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", defenses=("dp-sgd",))
    cell = "dp-sgd-train-s7"
    nothing = {"victims": [], "observed": 0, "empty": 0, "eligible": 0}
    edit(run / "truth" / f"{cell}.json", lambda truth: truth.update(nothing))
    for path in (run / "attacks" / cell).glob("*.json"):
        edit(path, lambda file: file.update(victims=[], control=[]))
    report = build(run)
    found = row(report.data, "linear-layer", "dp-sgd")
    assert found["level"] == "unattacked" and "Poisson" not in found["refusal"]
    assert "no valid update of the observed rounds reached the server" in found["refusal"]
    (text,) = told(report.data, "no valid update of the observed rounds")
    assert text.startswith(cell) and "audit.rounds" in text


def test_virtual_time_is_shown_where_it_says_more_than_the_number_of_rounds(run_dir: Path) -> None:
    rounds = json.loads(build(run_dir).json.read_text())["run"]["setup"]["rounds"]

    def took(seconds: float | None) -> str:
        edit(run_dir / "metrics.json", lambda m: m["cells"][CELL].update(virtual_seconds=seconds))
        return build(run_dir).html.read_text()

    assert "Virtual time" not in took(None) and "Virtual time" not in took(float(rounds))
    assert '<td data-label="Virtual time">2 h 5 min</td>' in took(7512.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.25, "0.25 s"),
        (42.0, "42 s"),
        (200.4, "3 min 20 s"),
        (3600.0, "1 h"),
        (273600.0, "3 d 4 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "lost",
    [
        "attacks",
        f"attacks/{CELL}",
        "attacks/no-first-bias-train-s7/label-recovery.json",
        "truth",
        "truth/dp-sgd-train-s7.json",
        "metrics.json",
        "scenario.toml",
    ],
)
def test_a_finished_run_with_missing_parts_keeps_its_report(run_dir: Path, lost: str) -> None:
    before = [(run_dir / name).read_bytes() for name in ("report.json", "report.html")]
    path = run_dir / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=rf"{lost}.* is missing.*run again"):
        build(run_dir)
    assert [(run_dir / name).read_bytes() for name in ("report.json", "report.html")] == before


def test_a_cell_without_metrics_is_missing_too(run_dir: Path) -> None:
    edit(run_dir / "metrics.json", lambda m: m["cells"].pop(CELL))
    with pytest.raises(DataError, match=rf"metrics\.json lacks the cell {CELL}"):
        build(run_dir)


def test_the_status_that_counts_is_the_one_given(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "attacks")
    edit(run_dir / "manifest.json", lambda m: m.update(status="running"))
    assert build(run_dir).data["attacks"] == []
    with pytest.raises(DataError, match="is missing"):
        build(run_dir, status="finished")


def test_a_scenario_without_attacks_needs_none(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "attacks")
    path = run_dir / "scenario.toml"
    path.write_text(path.read_text().split("[[attacks]]")[0])
    assert build(run_dir).data["attacks"] == []


def test_pixels_may_be_deleted(run_dir: Path) -> None:
    for folder in ("truth", "attacks"):
        for path in (run_dir / folder).rglob("*.safetensors"):
            path.unlink()
    assert "data:image/png" not in build(run_dir).html.read_text()


def test_what_python_passed_is_not_told_as_the_scenario_has_it(tmp_path: Path) -> None:
    report = build(
        write_run(
            tmp_path / "run",
            command="",
            objects={"aggregator": "trimmed", "task": "MyNet"},
            model={"name": "MyNet", "parameters": 12, "params": {}},
        )
    )
    about, page = report.data["run"], report.html.read_text()
    assert about["setup"]["aggregator"] == "trimmed (passed from Python)"
    assert "task" not in about["setup"] and "weighted-mean" not in page
    assert about["objects"] == {"aggregator": "trimmed", "task": "MyNet"}
    assert "<dd>MyNet (passed from Python), 12 parameters</dd>" in page
    assert "<dd>digits (passed from Python): " in page
    assert "<code>this run was started from Python: fedlab.run(...)</code>" in page


def test_what_the_scenario_names_is_not_told_as_passed(report: AuditReport) -> None:
    assert report.data["run"]["setup"]["aggregator"] == "weighted-mean"
    assert "from Python" not in report.html.read_text()


def test_a_report_prints_in_one_line(report: AuditReport) -> None:
    assert repr(report) == f"AuditReport(directory={report.directory!r}, html={report.html!r})"
