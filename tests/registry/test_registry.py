"""What is found below a directory, and what is known of it, whatever lies there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fedlab.errors import DataError, UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.foreign import LONGEST_TEXT
from fedlab.registry import Marks, Status, find, locate, look, read_marks, write_marks
from tests.registry.conftest import REPORT, write, write_sweep


def test_the_figures_of_a_run(folder: Path) -> None:
    entry = look(write(folder / "small-1"))
    assert entry.status is Status.FINISHED and entry.reason == ""
    assert (entry.trained, entry.planned) == (1, 2)
    known = entry.headline
    assert known is not None
    # The report ranks by level first; an attacker who was granted more is another question.
    assert (known.attack, known.psnr, known.recovered, known.images) == ("strong", 18.0, 3, 4)
    assert known.accuracy == (0.5, 0.875) and known.auc == 0.625
    assert known.epsilon == (3.14159, 3.14159) and known.unproved
    assert known.gates == (2, 3)


def test_the_size_is_that_of_all_files_and_of_no_link(folder: Path) -> None:
    run = write(folder / "small-1")
    before = look(run).size
    assert before == sum(one.stat().st_size for one in run.iterdir())
    (run / "models" / "cell").mkdir(parents=True)
    (run / "models" / "cell" / "x").write_bytes(bytes(1000))
    (folder / "large").write_bytes(bytes(10_000))
    link = run / "models" / "link"
    link.symlink_to(folder / "large")
    assert look(run).size == before + 1000 + link.lstat().st_size


@pytest.mark.parametrize("said", ["finished", "failed", "interrupted"])
def test_what_the_manifest_says(folder: Path, said: str) -> None:
    entry = look(write(folder / "run", status=said, error="no memory" if said == "failed" else None))
    assert entry.status == said and entry.reason == ("no memory" if said == "failed" else "")


def test_running_is_who_holds_the_lock(folder: Path) -> None:
    run = write(folder / "run", status="running")
    assert look(run).status is Status.KILLED
    program = f"""
import sys
from filelock import FileLock
with FileLock({str(run / ".lock")!r}):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert look(run).status is Status.RUNNING
        other.kill()
        other.wait()
    assert look(run).status is Status.KILLED
    with FileLock(run / ".lock"):
        assert look(run).status is Status.RUNNING


def test_looking_takes_no_lock_away(folder: Path) -> None:
    run = RunDirectory.open(write(folder / "run", status="running"))
    with run.locked():
        assert look(run.path).status is Status.RUNNING
    assert (run.path / ".lock").is_file()


def test_a_lock_that_is_a_link_is_not_opened(folder: Path) -> None:
    run = write(folder / "run", status="running")
    precious = folder / "precious"
    precious.write_text("text")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    assert look(run).status is Status.RUNNING and precious.read_text() == "text"


def test_asking_who_owns_a_run_leaves_no_trace(folder: Path) -> None:
    run = write(folder / "run")
    before = sorted(run.iterdir())
    assert not RunDirectory.owned(run) and not RunDirectory.owned(folder / "nowhere")
    assert sorted(run.iterdir()) == before
    (run / ".lock.pid").write_text("nobody")  # damaged: then it is a process without a number
    assert "is locked by a process, which works on it" in str(RunDirectory.in_use(run))


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", "1", '"text"', "{}", '{"schema": 1}', '{"schema": "1", "status": "finished"}',
     '{"schema": 0, "status": "finished"}', '{"schema": 1, "status": "killed"}',
     '{"schema": 1, "status": []}', '{"schema": 1, "status": null}', "[" * 100_000, "\udcff"],
)  # fmt: skip
def test_a_damaged_manifest_is_listed_with_a_reason(folder: Path, manifest: str) -> None:
    run = write(folder / "run")
    (run / "manifest.json").write_text(manifest, errors="surrogateescape")
    (entry,) = find(folder)
    assert entry.status is Status.DAMAGED and entry.reason and entry.started


def test_a_manifest_of_any_shape_is_no_crash(folder: Path) -> None:
    wrong: list[Any] = [None, 1, 2.5, True, "x", [], [1], {}, {"a": 1}]
    for number, value in enumerate(wrong):
        for key in ("name", "claim", "cells", "started", "finished", "error"):
            run = write(folder / f"{number}-{key}", status="failed", **{key: value})
            assert look(run).status is Status.FAILED


def test_a_newer_schema_is_named(folder: Path) -> None:
    (entry,) = find(write(folder / "run", schema=2).parent)
    assert entry.status is Status.NEWER and "schema 2" in entry.reason and str(folder / "run") in entry.reason


@pytest.mark.parametrize(
    "report", ["{", "[]", "{}", json.dumps(REPORT | {"attacks": [{}]}), json.dumps(REPORT | {"utility": 3})]
)
def test_a_damaged_report_leaves_a_run_without_figures(folder: Path, report: str) -> None:
    run = write(folder / "run")
    (run / "report.json").write_text(report)
    entry = look(run)
    assert entry.status is Status.FINISHED and entry.headline is None
    assert f"fedlab report {run}" in entry.reason


def test_text_of_a_run_cannot_write_to_the_terminal(folder: Path) -> None:
    entry = look(write(folder / "run", name="\x1b[31mred", claim="x" * 2 * LONGEST_TEXT))
    assert entry.scenario == "\ufffd[31mred" and len(entry.claim) == LONGEST_TEXT + 1


def test_what_is_found(folder: Path) -> None:
    assert find(folder) == []
    write(folder / "old", started="2026-01-01T00:00:00+00:00")
    write_sweep(folder / "sweep", ("new",))
    (folder / "sweep" / "report.html").touch()
    write(folder / "topic" / "deep", started="2026-01-15T00:00:00+00:00")
    inner = write(folder / "old" / "map" / "point")  # part of the run
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").touch()
    (folder / ".hidden").mkdir()
    (folder / "file").touch()
    (folder / "link").symlink_to(inner)
    (folder / "half").mkdir()
    (folder / "half" / "scenario.toml").touch()
    found = {one.name: one.status for one in find(folder)}
    assert found == {
        "empty": Status.DAMAGED,
        "half": Status.DAMAGED,
        "sweep": Status.FINISHED,
        "sweep/cells/new": Status.FINISHED,
        "topic/deep": Status.FINISHED,
        "old": Status.FINISHED,
    }
    names = [one.name for one in find(folder)]
    assert names.index("sweep/cells/new") < names.index("old")
    assert [one.name for one in find(folder, cells=False)] == [name for name in names if "cells" not in name]
    with pytest.raises(UsageError, match="is a file"):
        find(folder / "file")


def test_how_a_sweep_stands(folder: Path) -> None:
    sweep = write_sweep(folder / "sweep", ("one", "two"))
    entry = look(sweep)
    assert entry.sweep and (entry.trained, entry.planned) == (1, 2)
    assert (entry.status, entry.reason) == (Status.INTERRUPTED, "1 of 2 cells are not finished")
    assert (entry.scenario, entry.claim, entry.started) == (
        "small", "Batches hide.", "2027-01-15T08:00:00+00:00",
    )  # fmt: skip
    with FileLock(sweep / ".lock"):
        assert (look(sweep).status, look(sweep).reason) == (Status.RUNNING, "")
    with (sweep / "events.jsonl").open("a") as file:
        file.write('\n{"event": "failed", "cell": "two", "error": "x"}\n')
    assert (look(sweep).status, look(sweep).reason) == (Status.FAILED, "1 of 2 cells failed: two")
    write(sweep / "cells" / "two")  # another attempt
    assert (look(sweep).status, look(sweep).reason) == (Status.INTERRUPTED, "its report is not built yet")
    (sweep / "report.html").touch()
    assert (look(sweep).status, look(sweep).reason) == (Status.FINISHED, "")


def test_a_sweep_is_known_by_its_cells(folder: Path) -> None:
    axes = [{"key": "seed", "values": [1, 2]}]
    sweep = write_sweep(folder / "sweep", ("one", "two", "three", "four"), axes=axes)
    for name, changes in (
        ("two", {"psnr_median": 12.0, "fraction_recovered": 0.0, "recovered": 0, "level": "above"}),
        ("three", {"psnr_median": 40.0, "fraction_recovered": 1.0, "recovered": 4, "level": "copy"}),
    ):
        run = write(sweep / "cells" / name)
        report = json.loads((run / "report.json").read_text())
        report["attacks"] = [report["attacks"][1] | changes, *report["attacks"][2:]]
        report["utility"][0]["accuracy"] = 0.9
        report["guarantees"][0]["epsilon"] = 0.5
        (run / "report.json").write_text(json.dumps(report))
    (sweep / "report.json").write_text(json.dumps({"headline": "3 of 4 cells finished."}))
    entry = look(sweep)
    known = entry.headline
    assert known is not None and entry.axes == {"seed": (1, 2)} and (entry.trained, entry.planned) == (3, 4)
    assert (known.attack, known.psnr, known.recovered, known.images) == ("strong", 40.0, 4, 4)
    assert known.least == (12.0, 0, 4)
    assert known.accuracy == (0.5, 0.9) and known.epsilon == (0.5, 3.14159) and known.unproved
    assert (known.auc, known.gates, known.text) == (0.625, (6, 9), "3 of 4 cells finished.")
    (sweep / "cells" / "two" / "report.json").write_text("[]")
    again = look(sweep)
    assert again.headline is not None and again.headline.least == (18.0, 3, 4)
    assert again.reason.endswith("finished, without a report that can be read: two")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"schema": 2}, Status.NEWER),
        ({"axes": 3}, Status.DAMAGED),
        ({"axes": [{"key": "seed", "values": 3}]}, Status.DAMAGED),
        ({"schema": None}, Status.DAMAGED),
        ({"cells": 3}, Status.DAMAGED),
        ({"cells": [{}]}, Status.DAMAGED),
        ({"cells": [{"name": "../../elsewhere"}]}, Status.DAMAGED),
    ],
)
def test_a_sweep_of_any_shape_is_no_crash(folder: Path, data: dict[str, Any], status: Status) -> None:
    entry = look(write_sweep(folder / "sweep", **data))
    assert entry.sweep and entry.status is status and str(folder / "sweep") in entry.reason


def test_where_a_name_leads(folder: Path, tmp_path: Path) -> None:
    run = write(folder / "small-1")
    assert locate("small-1", folder) == run
    assert locate("runs/small-1", folder).resolve() == run
    assert locate(str(run), folder) == run
    with pytest.raises(UsageError, match='Did you mean "small-1"'):
        locate("smal-1", folder)
    outside = write(tmp_path / "elsewhere" / "other")
    assert locate("elsewhere/other", folder).resolve() == outside
    (folder / "link").symlink_to(outside)
    (folder / "far").symlink_to(outside.parent)
    for name in ("link", "runs/link", "far/other", str(folder / "far" / "other")):
        with pytest.raises(UsageError, match="link"):
            locate(name, folder)


def test_tags_and_notes_touch_nothing_of_the_run(folder: Path) -> None:
    run = write(folder / "run")
    before = {one.name: one.read_bytes() for one in run.iterdir()}
    marks = Marks().tagged(["b", "a"]).noted(" the rate was\ttoo high\x1b ")
    write_marks(run, marks)
    assert read_marks(run) == look(run).marks == Marks(("a", "b"), "the rate was\ttoo high\ufffd")
    assert {one.name: one.read_bytes() for one in run.iterdir() if one.name in before} == before
    write_marks(run, marks.tagged(remove=["a", "b"]).noted(""))
    assert {one.name: one.read_bytes() for one in run.iterdir()} == before


@pytest.mark.parametrize("tag", ["", "a b", "-a", "a/b", "x" * 65, "\x1b", "é"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(UsageError, match="tag"):
        Marks().tagged([tag])


def test_a_tag_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(UsageError, match="its tags: a"):
        Marks(("a",)).tagged(remove=["b"])
    with pytest.raises(UsageError, match="at most"):
        Marks().noted("x" * (LONGEST_TEXT + 1))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"tags": [1], "note": ""}', '{"tags": ["a b"], "note": ""}']
)
def test_damaged_notes_are_told_and_the_run_is_listed(folder: Path, text: str) -> None:
    run = write(folder / "run")
    (run / "notes.json").write_text(text)
    with pytest.raises(DataError, match=r"notes\.json is damaged"):
        read_marks(run)
    assert look(run).status is Status.FINISHED and "notes.json" in look(run).reason
