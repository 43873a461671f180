"""Levels and wording: what a score may and may not be called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_run import write_run

from fedlab.audit.scoring import VictimScore, summarise
from fedlab.report import AuditReport, build, reading
from fedlab.report.reading import epsilon, level, small
from fedlab.report.rundir import clean


def summary(*values: float | None, labels: int | None = None) -> object:
    blank = (None,) * len(values)
    return summarise([VictimScore(1, 0, values, blank, blank, blank, labels, len(values))], 20.0)


@pytest.mark.parametrize(
    ("scores", "control", "expected"),
    [
        ((None, None), (6.0,), "refused"),
        ((6.9, 6.9), (6.0,), "control"),
        ((7.1, 7.1), (6.0,), "above"),
        ((7.0, 21.0, 6.0), (6.0,), "some"),  # median at control level, but one image was taken
        ((12.0, 13.0, 20.0), (6.0,), "some"),
        ((20.0, 20.0), (6.0,), "most"),
        ((30.0, 31.0), (6.0,), "copy"),
        ((25.0, 25.5), (25.0, 25.2), "control"),  # the control reaches the threshold as well
        ((25.0, 60.0, 25.0), (25.0, 25.2), "most"),  # but one image goes far beyond it
        ((31.0,), (), "copy"),  # no control: nothing to excuse it with
        ((8.0,), (), "above"),
    ],
)
def test_levels(scores: tuple[float, ...], control: tuple[float, ...], expected: str) -> None:
    assert level(summary(*scores), summary(*control), 20.0).key == expected  # type: ignore[arg-type]


def test_an_attack_on_labels_alone_is_no_refusal() -> None:
    assert level(summary(None, labels=1), summary(None), 20.0).key == "labels"  # type: ignore[arg-type]


def test_epsilon_is_never_printed_smaller_than_it_is() -> None:
    assert epsilon(7.8412) == "7.85"
    assert epsilon(8.0) == "8.00"
    assert epsilon(0.001) == "0.01"
    assert small(1e-5) == "0.00001"
    assert small(None) == "–"


def test_the_headline_names_the_strongest_leak_with_its_control(report: AuditReport) -> None:
    headline = report.data["verdict"]["headline"]
    assert "8 of 8" in headline and "linear-layer" in headline and "undefended" in headline
    best = max(one["psnr_median"] or 0 for one in report.data["attacks"])
    assert f"{best:.1f} dB" in headline and "random update" in headline


def test_where_nothing_was_recovered_the_verdict_keeps_its_limits(tmp_path: Path) -> None:
    report = build(write_run(tmp_path / "run", defenses=("dp-sgd",)))
    assert "did not recover an image" in report.data["verdict"]["headline"]
    assert "cannot be excluded" in report.data["verdict"]["findings"][0]["leakage"]


def test_a_run_without_attacks_claims_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", status="interrupted")  # what a finished one lacks is an error
    for file in (run / "attacks").rglob("*.*"):
        file.unlink()
    report = build(run)
    data, page = report.data, report.html.read_text()
    assert "include_samples" not in page.partition('id="gallery"')[2].partition("</section>")[0]
    assert data["attacks"] == [] and data["verdict"]["headline"].startswith("No attack was tried")
    assert "No attack was tried: this run says nothing about what leaks." in data["limits"]
    assert not any("were attacked" in text or "Attacks tried" in text for text in data["limits"])


def test_no_page_calls_anything_safe(report: AuditReport, tmp_path: Path) -> None:
    protected = build(write_run(tmp_path / "run", defenses=("dp-sgd",)))
    for one in (report, protected):
        text = one.html.read_text() + one.json.read_text()
        words = text.replace("Secure aggregation", "").replace("model.safetensors", "")
        assert not re.search(
            r"\b(safe|safely|secure|harmless|anonymous|no risk|low risk)\b", words, re.IGNORECASE
        )


def test_every_finding_says_leak_cost_and_proof(report: AuditReport) -> None:
    findings = {one["defense"]: one for one in report.data["verdict"]["findings"]}
    assert "22.7 percentage points below" in findings["dp-sgd"]["utility"]
    assert "for one record: ε = 7.85 at δ = 0.00001" in findings["dp-sgd"]["guarantee"]
    assert findings["none"]["guarantee"].startswith("No formal guarantee")
    assert "linear-layer" in findings["no-first-bias"]["leakage"].split("Not applicable here:")[1]


def test_limits_tell_where_poisson_victims_come_from(report: AuditReport) -> None:
    told = [text for text in report.data["limits"] if text.startswith("dp-sgd-train-s7")]
    assert len(told) == 1 and "14 eligible of 40" in told[0] and "(15)" in told[0]


def test_threat_models_name_what_was_not_tried(report: AuditReport) -> None:
    models = report.data["threat_models"]
    assert len(models["tested"]) == 1 and "Honest-but-curious" in models["tested"][0]
    assert "does not know the labels" in models["tested"][0]
    for topic in (
        "malicious server",
        "collude",
        "Membership inference",
        "inference mode",
        "Secure aggregation",
    ):
        assert any(topic in text for text in models["not_tested"])


def test_text_is_cleaned_all_the_way_down() -> None:
    hidden = "a\u202eb\x00c\ud800"
    assert clean({"x": [hidden, float("nan"), 1]}) == {"x": ["a\ufffdb\ufffdc\ufffd", None, 1]}
    assert clean("👩\u200d🔬\n") == "👩\u200d🔬\n"
    assert len(clean("x" * 100_000)) <= 4001


def test_whoever_knows_a_defense_may_leave_that_unused() -> None:
    """The rows of [threat], and those that differ from it by the defense alone; the rest is somebody else."""
    known = {"attack": "cascade", "threat_label": "", "threat": {"labels": False, "defense": True}}
    unused = {"attack": "cascade", "threat_label": "unaware", "threat": {"labels": False, "defense": False}}
    granted = {"attack": "cascade", "threat_label": "blind", "threat": {"labels": True, "defense": False}}
    found = reading.reached([known, unused, granted])
    assert [row["attack"] for row in found] == ["cascade", "cascade (defense unused)"]
    assert unused["attack"] == "cascade"
