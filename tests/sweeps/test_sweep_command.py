"""`fedlab sweep`, and what other commands make of sweeps."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console

from fedlab.cli import main
from fedlab.sweeps.view import Board, Lines
from tests.sweeps.conftest import tables


@pytest.fixture
def fedlab(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(list(words))
        said = capsys.readouterr()
        return int(str(exit.value.code)), said.out, said.err

    return call


def scenario(**changes: Any) -> str:
    Path("tiny.toml").write_text(tomli_w.dumps(tables(**changes)))
    return "tiny.toml"


def test_run_names_the_command_that_runs_sweeps(fedlab: Any) -> None:
    code, _, err = fedlab("run", scenario(sweep={"seed": [1, 2]}), "--quiet")
    assert code == 2
    assert "fedlab sweep" in err
    assert not Path("runs").exists()


def test_validate_counts_cells(fedlab: Any) -> None:
    code, out, _ = fedlab("validate", scenario(sweep={"seed": [1, 2], "clients.batch_size": [1, 2, 3]}))
    assert code == 0
    assert "6 cells of [sweep]" in out


@pytest.mark.usefixtures("fake")
def test_a_sweep_from_beginning_to_end(fedlab: Any) -> None:
    code, out, err = fedlab("sweep", scenario(sweep={"clients.batch_size": [1, 2]}), "--sweep", "seed=1")
    assert code == 0
    directory = Path("runs/tiny-sweep-1").resolve()
    assert out.splitlines()[-2:] == [str(directory), str(directory / "report.html")]
    assert ["batch_size-2__seed-1", "2", "1", "linear-layer"] in [
        line.split()[:4] for line in out.splitlines()
    ]
    assert "batch_size-1__seed-1: finished, accuracy 51.0 %, 1 of 1 images, 40.1 dB" in err
    assert json.loads((directory / "sweep.json").read_text())["command"] == (
        "fedlab sweep tiny.toml --sweep seed=1"
    )

    code, out, err = fedlab("resume", str(directory), "--json")
    assert code == 0
    assert json.loads(out)["report"]["kind"] == "sweep"
    assert "0 cells to run, 2 finished before" in err
    assert fedlab("report", str(directory))[0] == 0
    code, _, err = fedlab("report", str(directory), "--format", "md")
    assert code == 2
    assert "cells/NAME" in err


@pytest.mark.usefixtures("fake")
def test_exit_codes(fedlab: Any) -> None:
    code, _, err = fedlab("sweep", scenario(), "--sweep", "clients.learning_rate=0.1,0.66", "--quiet")
    assert code == 1
    assert "1 of 2 cells failed:\n  learning_rate-0.66: the data is not there\n" in err
    assert "fedlab resume" in err
    code, _, err = fedlab("sweep", "tiny.toml", "--sweep", "clients.batch_size=1,8", "--quiet")
    assert code == 4
    assert "batch_size-8: utility.accuracy < 0.9" in err
    code, _, err = fedlab("sweep", "tiny.toml", "--sweep", "clients.batchsize=1,8", "--quiet")
    assert code == 2
    assert 'Did you mean "batch_size"?' in err


@pytest.mark.usefixtures("fake")
def test_going_on_takes_what_sweeping_takes(fedlab: Any, tmp_path: Path) -> None:
    rates = "clients.learning_rate=0.66,0.2,0.1"
    words = "--workers", "1", "--fail-fast", "--quiet"
    code, _, _ = fedlab("sweep", scenario(), "--sweep", rates, *words)
    assert code == 1
    out = Path("runs/tiny-sweep-1")
    assert fedlab("resume", str(out), *words)[0] == 1
    assert [one.name for one in out.glob("cells/*")] == ["learning_rate-0.66"]
    (out / "mended").touch()
    assert fedlab("resume", str(out), *words)[0] == 0
    begun = [json.loads(line)["event"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert begun == ["started", "failed"] * 2 + ["started", "finished"] * 3  # one at a time
    assert fedlab("resume", str(out), "--workers", "0")[0] == 2
    code, _, err = fedlab("resume", str(out / "cells" / "learning_rate-0.1"), "--workers", "2")
    assert code == 2 and "is no sweep" in err


def test_a_cell_ends_when_the_hand_that_holds_it_lets_go(tmp_path: Path) -> None:
    """The real command line, stopped before it has read anything."""
    import subprocess

    cell = subprocess.Popen(
        [sys.executable, "-P", "-m", "fedlab.cli.leashed", "run", str(tmp_path / "no.toml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert cell.stdin is not None
    cell.stdin.close()
    assert cell.wait(timeout=60) != 0


def test_a_table_that_fits_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, height=12, force_terminal=True)
    board = Board(console)
    cells = [f"seed-{seed}" for seed in range(20)]
    board.begin(cells, done=4)
    for cell in cells[:10]:
        board.start(cell)
    for cell in cells[:8]:
        board.end(cell, "failed" if cell == "seed-3" else "finished", "accuracy 91.0 %")
    shown = Console(file=io.StringIO(), width=100, record=True)
    shown.print(board.table())
    lines = shown.export_text().splitlines()
    assert len(lines) <= 12
    assert any("seed-9" in line and "running" in line for line in lines)
    assert any("seed-7" in line and "accuracy 91.0 %" in line for line in lines)
    assert lines[-1].startswith("11 of 24 finished, 2 running, 1 failed, about")


def test_plain_lines_carry_no_clock() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin(["a", "b"], done=1)
    lines.start("a")
    lines.end("a", "finished", "accuracy 91.0 %")
    lines.end("b", "failed", "no data\nat all")
    assert stream.getvalue().splitlines() == [
        "2 cells to run, 1 finished before",
        "a: started",
        "a: finished, accuracy 91.0 % (2 of 3 finished)",
        "b: failed, no data at all (2 of 3 finished)",
    ]
