"""The promise of a sweep: killed as often as you like, it ends as one that nobody disturbed, and leaves no
process behind. Cells are real processes, which take no time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedlab.errors import Interrupted
from fedlab.sweeps import resume, running, sweep
from tests.sweeps.conftest import tables
from tests.sweeps.fake_cell import finished

AXES = {"clients.batch_size": [1, 2, 4, 8], "task.model.width": [8, 16], "seed": [1, 2, 3]}
pytestmark = pytest.mark.usefixtures("fake")


def begun(work: Callable[[], Any]) -> multiprocessing.Process:
    """The same in a process of its own, as the command line has it; exit code 5 if it was interrupted."""

    def target() -> None:
        try:
            work()
        except Interrupted:
            os._exit(5)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def cells_at_work(directory: Path) -> list[int]:
    """Processes that were started for this sweep."""
    found = []
    for one in psutil.process_iter(["cmdline", "pid"]):
        words = one.info["cmdline"] or []
        if any(str(directory) in word for word in words):
            found.append(one.info["pid"])
    return found


def stuck(directory: Path, limit: int) -> bool:
    """Whether as many cells have ended as may, and another one has begun, which can only wait."""
    return finished(directory) >= limit and len(list(directory.glob("cells/*/attempts"))) > finished(
        directory
    )


def test_a_sweep_of_24_cells_killed_twice_ends_with_the_table_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sweep(tables(sweep=AXES), out=whole)

    killed.mkdir()
    first = begun(lambda: sweep(tables(sweep=AXES), out=killed))
    until(lambda: (killed / "sweep.json").exists())
    (killed / "limit").write_text("5")
    until(lambda: stuck(killed, 5))
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    assert 5 <= finished(killed) < 24
    until(lambda: not cells_at_work(killed))

    (killed / "limit").write_text("14")
    second = begun(lambda: sweep(tables(sweep=AXES), out=killed))
    until(lambda: stuck(killed, 14))
    os.kill(second.pid or 0, signal.SIGTERM)
    second.join()
    assert second.exitcode == 5
    assert not cells_at_work(killed)
    assert 14 <= finished(killed) < 24

    (killed / "limit").unlink()
    report = resume(killed)
    assert len(report.cells("finished")) == 24
    for name in ("report.json", "report.html", "scenario.toml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    tried = [one.read_text().split() for one in killed.glob("cells/*/attempts")]
    assert len(tried) == 24
    assert all(words[0] == "run" and set(words[1:]) <= {"resume"} for words in tried)
    assert any(len(words) > 1 for words in tried)  # some were interrupted, and went on


def test_a_cell_that_another_process_still_works_on_waits_its_turn(tmp_path: Path) -> None:
    """As after a kill: who was left alone may still be ending when the sweep begins again."""
    import fcntl

    out = tmp_path / "held"
    sweep(tables(sweep={"seed": [1, 2]}), out=out)
    cell = out / "cells" / "seed-1"
    (cell / "manifest.json").write_text('{"schema": 1, "status": "running"}')
    told: list[str] = []
    with (cell / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        class View:
            def begin(self, cells: Any, done: int) -> None: ...

            def start(self, cell: str, said: Any) -> None:
                told.append(f"started {cell}")

            def end(self, cell: str, word: str, note: str) -> None:
                told.append(f"{word} {cell}")

            def message(self, text: str) -> None:
                told.append(text)
                fcntl.flock(lock, fcntl.LOCK_UN)

            def tick(self) -> None: ...

        resume(out, view=View())
    assert "another process works on it" in told[0]
    assert told[1:] == ["started seed-1", "finished seed-1"]


def test_what_a_cell_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    sweep(tables(sweep={"clients.learning_rate": [0.99]}), out=tmp_path / "orphans")
    orphan = int((tmp_path / "orphans" / "orphan").read_text())
    until(lambda: not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE)


def test_a_sweep_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = begun(lambda: sweep(tables(sweep={"clients.learning_rate": [0.77]}), out=out))
    until(lambda: bool(list(out.glob("hangs-*"))))
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert process.exitcode == 5
    assert not cells_at_work(out)


def test_stopped_while_the_report_is_built_it_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="fedlab resume"):
        patch.setattr(running, "build", impatient)
        sweep(tables(sweep={"seed": [1]}), out=tmp_path / "sweep")
    assert len(resume(tmp_path / "sweep").cells("finished")) == 1
