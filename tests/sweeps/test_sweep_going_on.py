"""What becomes of cells: finished ones stay, failed ones are tried again, and none touches the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import DataError, NewerRun, ScenarioError, UsageError
from fedlab.report.sweep import build
from fedlab.sweeps import resume, sweep
from tests.sweeps.conftest import tables

RATES = "clients.learning_rate"
pytestmark = pytest.mark.usefixtures("fake")


def attempts(out: Path) -> dict[str, list[str]]:
    return {one.parent.name: one.read_text().split() for one in out.glob("cells/*/attempts")}


def statuses(report: Any) -> list[str]:
    return [cell["status"] for cell in report.data["cells"]]


def test_a_failed_cell_leaves_the_others_unharmed_and_is_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    report = sweep(tables(sweep={RATES: [0.1, 0.66, 0.2]}), out=out)
    assert statuses(report) == ["finished", "failed", "finished"]
    assert report.data["cells"][1]["error"] == "the data is not there\nfetch it"

    again = resume(out)
    assert statuses(again) == ["finished", "failed", "finished"]
    (out / "mended").touch()
    assert statuses(resume(out)) == ["finished"] * 3
    assert attempts(out) == {
        "learning_rate-0.1": ["run"],
        "learning_rate-0.66": ["run", "resume", "resume"],
        "learning_rate-0.2": ["run"],
    }


def test_a_cell_that_is_killed_counts_as_failed(tmp_path: Path) -> None:
    (cell,) = sweep(tables(sweep={RATES: [0.88]}), out=tmp_path / "sweep").data["cells"]
    assert (cell["status"], cell["error"]) == ("failed", "ended by signal 9 (for want of memory?)")


def test_fail_fast_stops_at_the_first(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    report = sweep(tables(sweep={RATES: [0.66, 0.1, 0.2]}), out=out, workers=1, fail_fast=True)
    assert statuses(report) == ["failed", "waiting", "waiting"]
    assert list(attempts(out)) == ["learning_rate-0.66"]
    (out / "mended").touch()
    assert statuses(resume(out)) == ["finished"] * 3


def test_fail_fast_stops_the_cells_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlab.sweeps import running
    from fedlab.sweeps.room import Room

    monkeypatch.setattr(running, "machine", lambda: Room(2))
    report = sweep(tables(sweep={RATES: [0.77, 0.66]}), out=tmp_path / "sweep", fail_fast=True)
    assert statuses(report) == ["interrupted", "failed"]


def test_the_same_sweep_again_does_nothing(tmp_path: Path) -> None:
    first = sweep(tables(sweep={"seed": [1, 2]}), out=tmp_path / "sweep")
    page = first.html.read_bytes()
    second = sweep(tables(sweep={"seed": [1, 2]}), out=tmp_path / "sweep")
    assert second.data == first.data
    assert second.html.read_bytes() == page
    assert attempts(tmp_path / "sweep") == {"seed-1": ["run"], "seed-2": ["run"]}


def test_a_sweep_may_grow(tmp_path: Path) -> None:
    sweep(tables(sweep={"seed": [1, 2]}), out=tmp_path / "sweep")
    report = sweep(tables(sweep={"seed": [1, 2, 3]}), out=tmp_path / "sweep")
    assert statuses(report) == ["finished"] * 3
    assert attempts(tmp_path / "sweep") == {f"seed-{seed}": ["run"] for seed in (1, 2, 3)}


def test_another_sweep_is_refused_with_a_diff(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1, 2]}), out=out)
    with pytest.raises(UsageError, match=r"(?s)holds another sweep.*-rounds = 2\n.*\+rounds = 3"):
        sweep(tables(sweep={"seed": [1, 2]}), overrides=["strategy.rounds=3"], out=out)
    with pytest.raises(UsageError, match="holds another sweep"):
        sweep(tables(sweep={"seed": [1]}), out=out)


def test_a_long_diff_is_cut(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": list(range(1, 4))}), out=out, workers=1)
    with pytest.raises(UsageError, match="holds another sweep") as error:
        sweep(tables(sweep={"seed": list(range(100, 130))}), out=out)
    assert len(str(error.value).splitlines()) < 25 and "more lines\nGive --out" in str(error.value)


def test_a_sweep_of_a_newer_fedlab_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1]}), out=out)
    data = json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps(data | {"schema": 2}))
    for work in (lambda: resume(out), lambda: build(out)):
        with pytest.raises(NewerRun, match="a newer fedlab wrote this run: schema 2"):
            work()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        sweep(tables(sweep={"seed": [1]}), out=tmp_path)
    with pytest.raises(DataError, match="no sweep"):
        resume(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"schema": 0}', '{"schema": 1, "cells": [{"name": "../x"}]}']
)
def test_a_damaged_sweep_is_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1]}), out=out)
    (out / "sweep.json").write_text(damage)
    with pytest.raises(DataError, match=r"sweep\.json"):
        resume(out)


def test_a_mistake_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError):
        sweep(tables(sweep={"clients.batch_size": [-1]}), out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_what_changes_the_result_is_not_set_on_the_way(tmp_path: Path) -> None:
    sweep(tables(sweep={"seed": [1]}), out=tmp_path / "sweep")
    with pytest.raises(UsageError, match=r"rounds=9: expected a key that changes no result: runtime\.ex"):
        resume(tmp_path / "sweep", overrides=["strategy.rounds=9"])


def test_two_sweeps_do_not_share_a_directory(tmp_path: Path) -> None:
    from fedlab.experiment.directory import RunDirectory

    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1]}), out=out)
    with RunDirectory(out, {}).locked(), pytest.raises(UsageError, match="locked by pid"):
        resume(out)


def test_no_more_cells_than_cores_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlab.sweeps import running
    from fedlab.sweeps.room import Room

    class View:
        now = most = 0

        def begin(self, cells: Any, done: int) -> None: ...

        def start(self, cell: str, said: Any) -> None:
            self.now += 1
            self.most = max(self.most, self.now)

        def end(self, cell: str, word: str, note: str) -> None:
            self.now -= 1

        def message(self, text: str) -> None: ...

        def tick(self) -> None: ...

    monkeypatch.setattr(running, "machine", lambda: Room(3))
    seeds = {"seed": list(range(5))}
    for number, (workers, runtime, most) in enumerate(
        [(None, "inline", 3), (2, "inline", 2), (9, "inline", 3), (None, "ray", 1)]
    ):
        view = View()
        data = tables(sweep=seeds, runtime={"executor": runtime})
        sweep(data, out=tmp_path / str(number), workers=workers, view=view)
        assert (view.most, view.now) == (most, 0)


def test_a_cell_that_was_stopped_before_its_manifest_begins_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"seed": [1]}), out=out)
    (out / "cells" / "seed-1" / "manifest.json").unlink()
    assert statuses(resume(out)) == ["finished"]
    assert attempts(out) == {"seed-1": ["run"]}


def test_sweep_json_says_what_it_is(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sweep(tables(sweep={"clients.batch_size": [1, 2]}), out=out, command="fedlab sweep tiny")
    data = json.loads((out / "sweep.json").read_text())
    assert (data["schema"], data["name"], data["command"]) == (1, "tiny", "fedlab sweep tiny")
    assert data["axes"] == [{"key": "clients.batch_size", "values": [1, 2]}]
    assert [(one["name"], one["settings"]) for one in data["cells"]] == [
        ("batch_size-1", {"clients.batch_size": 1}),
        ("batch_size-2", {"clients.batch_size": 2}),
    ]
    assert len({one["scenario_sha256"] for one in data["cells"]}) == 2
