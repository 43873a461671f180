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
from fedlab.sweeps import children
from fedlab.sweeps.children import LONGEST_ERROR, Child
from fedlab.sweeps.view import Board, Lines, watch
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


@pytest.mark.parametrize(
    ("printed", "said", "error"),
    [
        ("", "", ""),
        ("reading tiny.toml\n", "", "reading tiny.toml"),
        ("reading tiny.toml\ntrain none: 40 of 400\n", "train none: 40 of 400", None),
        (f"reading\n{'x' * 9000}\nerror: no data\nfetch it\n", "fetch it", "no data\nfetch it"),
        (f"reading\n{'x' * 9000}\nKilled\n", "Killed", "x" * (LONGEST_ERROR - 7) + "\nKilled"),
    ],
)
def test_what_a_cell_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, said: str, error: str | None
) -> None:
    echo = "import sys; sys.stderr.write(sys.argv[1])"
    monkeypatch.setattr(children, "PROGRAM", (sys.executable, "-S", "-c", echo))
    child = Child([printed], tmp_path / "log", {})
    child.process.wait()
    assert child.said() == said
    assert error is None or child.error() == error
    child.kill()


def told(board: Board, width: int) -> list[str]:
    shown = Console(file=io.StringIO(), width=width, record=True)
    shown.print(board.table())
    return shown.export_text().splitlines()


@pytest.mark.parametrize("width", [100, 40])
def test_a_table_that_fits_the_terminal(width: int) -> None:
    board = Board(Console(file=io.StringIO(), width=width, height=12, force_terminal=True))
    cells = [f"seed-{seed}" for seed in range(20)]
    board.begin(cells, done=4)
    for cell in cells[:10]:
        board.start(cell, lambda: f"train none: 10 of {400 if width == 100 else 'x' * width}")
    for cell in cells[:8]:
        board.end(cell, "failed" if cell == "seed-3" else "finished", "accuracy 91.0 %")
    lines = told(board, width)
    assert len(lines) <= 12 and all(len(line) <= width for line in lines)
    assert any("seed-9" in line and "0 s" in line and "train none: 10" in line for line in lines)
    assert any("seed-7" in line and "accuracy 91.0 %" in line for line in lines)
    assert " ".join(lines).find("11 of 24 finished, 2 running, 1 failed") > 0


def test_what_is_left_is_guessed_from_cells_that_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("fedlab.sweeps.view.time.monotonic", lambda: clock[0])
    board = Board(Console(file=io.StringIO(), width=100, height=12, force_terminal=True))
    board.begin([f"seed-{seed}" for seed in range(6)], done=0)
    for cell in ("seed-0", "seed-1", "seed-2"):
        board.start(cell, str)
    board.end("seed-0", "failed", "at once")  # which says nothing of how long a cell takes
    assert "left" not in told(board, 100)[-1]
    clock[0] = 60.0
    board.end("seed-1", "finished", "")
    board.start("seed-3", str)
    clock[0] = 80.0
    # Two wait, 60 s each; one of the two at work is late, the other has 40 s to go: 160 s for two at a time.
    assert told(board, 100)[-1].endswith("1 of 6 finished, 2 running, 1 failed, about 1:20 min left")


def test_the_board_leaves_a_line_behind() -> None:
    console = Console(file=io.StringIO(), width=100, height=12, force_terminal=True, record=True)
    with Board(console) as board:
        board.begin(["a", "b"], done=0)
        board.start("a", str)
        board.end("a", "interrupted", "")
    assert console.export_text().splitlines()[-1] == "0 of 2 finished, 1 interrupted"


def test_a_colourful_log_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watch(console=Console(file=io.StringIO(), force_terminal=True)) as view:
        assert isinstance(view, Lines)


def test_plain_lines_carry_no_clock() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin(["a", "b"], done=1)
    lines.start("a", str)
    lines.end("a", "finished", "accuracy 91.0 %")
    lines.end("b", "failed", "no data\nat all")
    assert stream.getvalue().splitlines() == [
        "2 cells to run, 1 finished before",
        "a: started",
        "a: finished, accuracy 91.0 % (2 of 3 finished)",
        "b: failed, no data at all (2 of 3 finished)",
    ]
