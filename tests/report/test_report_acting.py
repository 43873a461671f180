"""The report's words on mechanisms that act on the updates."""

import json
from pathlib import Path

import pytest

from fedlab.errors import DataError
from fedlab.report import AuditReport, build

FOUND = {
    "schema_version": 1,
    "updates": 4,
    "clients": 4,
    "rounds": 1,
    "signs": [
        {"name": "norm bound", "acts": True, "figure": 0.5, "words": "4 of 4 <b>"},
        {"name": "noise", "acts": None, "figure": None, "words": "could not be seen"},
        {"name": "sparsity", "acts": False, "figure": 0.0, "words": "0.0%"},
    ],
}


def test_without_the_file_there_is_no_such_section(report: AuditReport) -> None:
    assert report.data["acting"] is None
    assert 'id="acting"' not in report.html.read_text()


def test_each_mechanism_is_told(run_dir: Path) -> None:
    (run_dir / "acting.json").write_text(json.dumps(FOUND))
    report = build(run_dir)
    told = report.data["acting"]
    assert [row["verdict"] for row in told["signs"]] == ["acts", "cannot be told", "no trace"]
    assert told["headline"] == "What the updates show: norm bound."
    page = report.html.read_text()
    assert 'href="#acting"' in page and "4 of 4 &lt;b&gt;" in page and "4 of 4 <b>" not in page


def test_nothing_that_acts_is_said(run_dir: Path) -> None:
    both = ((FOUND["signs"][2:], "left a trace"), (FOUND["signs"][1:], "cannot be told"))  # type: ignore[index]
    for signs, words in both:
        (run_dir / "acting.json").write_text(json.dumps({**FOUND, "signs": signs}))
        headline = build(run_dir).data["acting"]["headline"]
        assert headline.startswith("No privacy mechanism") and words in headline


def test_a_damaged_file_is_named(run_dir: Path) -> None:
    (run_dir / "acting.json").write_text('{"updates": 4}')
    with pytest.raises(DataError, match=r"acting\.json"):
        build(run_dir)
