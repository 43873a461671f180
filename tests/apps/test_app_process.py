"""An app in a process of its own: whatever it does there, the caller gets a message and an exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fedlab.apps import apart
from fedlab.apps.process import Wire
from fedlab.cli.app import app, execute
from fedlab.errors import (
    AppFailed,
    BackendError,
    BadApp,
    FedlabError,
    Interrupted,
    MissingFacts,
    ScenarioError,
    UnknownName,
    UsageError,
)

QUICK = ["--attack", "label-recovery", "--quiet"]


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, job: str, total: int) -> None:
        self.lines.append(f"start {job} {total}")

    def advance(self, job: str, done: int, note: str = "") -> None:
        self.lines.append(f"advance {job} {done}")

    def finish(self, job: str, note: str = "") -> None:
        self.lines.append(f"finish {job} {note}")

    def message(self, text: str) -> None:
        self.lines.append(text)


def told(*lines: dict[str, object]) -> apart._Told:
    found = apart._Told(Heard())
    for line in lines:
        found.take(line)
    return found


def test_progress_passes_through_the_wire() -> None:
    stream = io.StringIO()
    wire = Wire(stream)
    wire.start("run the app", 3)
    wire.advance("run the app", 1)
    wire.message("words")
    wire.finish("run the app", "3 rounds")
    heard = told(*map(json.loads, stream.getvalue().splitlines()))
    assert isinstance(heard.progress, Heard)
    assert heard.progress.lines == [
        "start run the app 3",
        "advance run the app 1",
        "words",
        "finish run the app 3 rounds",
    ]


def test_who_ends_the_process_is_told_where() -> None:
    start = {"kind": "start", "job": "run the app", "total": 3}
    second = {"kind": "advance", "job": "run the app", "done": 1, "note": ""}
    with pytest.raises(AppFailed, match=r"with code 9, in round 2"):
        told(start, second).outcome(9)
    with pytest.raises(AppFailed, match=r"by signal SIGKILL, in round 1"):
        told(start).outcome(-9)


def test_what_ends_after_the_app_is_no_fault_of_the_app() -> None:
    done = {"kind": "finish", "job": "run the app", "note": ""}
    start = {"kind": "start", "job": "attack x with y", "total": 3}
    with pytest.raises(BackendError, match="during: attack x with y"):
        told(done, start).outcome(-9)


def test_who_stops_it_is_told_how_to_go_on() -> None:
    last = {"kind": "error", "error": "Interrupted", "text": "fedlab resume runs/x-1"}
    for stopped in (True, False):  # the caller was stopped, or the child alone
        with pytest.raises(Interrupted, match="fedlab resume runs/x-1"):
            told(last).outcome(5, stopped=stopped)
    with pytest.raises(Interrupted, match="stopped by the user"):
        told().outcome(-15, stopped=True)


def test_half_a_line_of_a_child_that_was_killed_is_no_fault() -> None:
    heard = apart._Told(Heard())
    child = SimpleNamespace(stdout=io.StringIO('{"kind": "message", "text": "whole"}\n{"kind": "mess'))
    heard.listen(child)  # type: ignore[arg-type]
    assert isinstance(heard.progress, Heard) and heard.progress.lines == ["whole"]


def test_a_child_whose_caller_is_gone_tells_nobody() -> None:
    """An attack that told of its progress then would fail for that, and its failure be kept as an answer."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        Wire(stream).advance("attack", 1)
        with contextlib.suppress(BrokenPipeError):
            stream.close()


@pytest.mark.parametrize(
    ("name", "code"),
    [("MissingFacts", 2), ("BadApp", 2), ("AppFailed", 1), ("DataError", 3), ("UnknownName", 2)],
)
def test_errors_keep_their_exit_codes(name: str, code: int) -> None:
    with pytest.raises(FedlabError, match="words") as found:
        told({"kind": "error", "error": name, "text": "words"}).outcome(1)
    assert found.value.exit_code == code


def test_an_error_that_takes_more_than_words_is_its_ancestor() -> None:
    for kind in (UnknownName, ScenarioError):
        assert type(apart._error(kind.__name__, "words")) is UsageError
    assert type(apart._error("MissingFacts", "words")) is MissingFacts
    assert type(apart._error("BadApp", "words")) is BadApp
    assert type(apart._error("did_you_mean", "words")) is FedlabError


def app_folder(path: Path, server: str, client: str = "app = ClientApp()\n") -> Path:
    path.mkdir()
    name = path.name
    (path / "pyproject.toml").write_text(
        f"[project]\nname = '{name}'\nversion = '1'\n"
        f"[tool.flwr.app.components]\nserverapp = '{name}_s:app'\nclientapp = '{name}_c:app'\n"
        "[tool.flwr.app.config]\nnum-server-rounds = 1\n"
    )
    (path / f"{name}_s.py").write_text(
        "import os, sys\nfrom flwr.serverapp import ServerApp\napp = ServerApp()\n"
        f"@app.main()\ndef main(grid, context):\n    {server}\n"
    )
    (path / f"{name}_c.py").write_text(f"from flwr.clientapp import ClientApp\n{client}")
    return path


class TestBadApps:
    """Each starts a process of its own, a few seconds."""

    def audit(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        out = folder.parent / f"out-{folder.name}"
        code = execute(["audit-app", str(folder), "--out", str(out), *QUICK])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    def test_one_that_ends_the_process(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = self.audit(app_folder(tmp_path / "ender", "print('noise'); os._exit(9)"), capsys)
        assert code == 1 and out == ""
        assert "with code 9, in round 1" in " ".join(err.split())

    def test_one_that_raises_gives_its_own_traceback(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = app_folder(tmp_path / "raiser", "raise KeyError('no such thing')")
        code, out, err = self.audit(folder, capsys)
        assert code == 1 and out == ""
        assert "raiser_s.py" in err and "no such thing" in err
        assert "fedlab/apps" not in err

    def test_an_unknown_key_leaves_no_run_directory(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder, out = app_folder(tmp_path / "typo", "pass"), tmp_path / "out"
        code = execute(["audit-app", str(folder), "--run-config", "num-rounds=2", "--out", str(out), *QUICK])
        assert code == 2 and "num-rounds" in capsys.readouterr().err and not out.exists()

    def test_a_folder_that_is_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = self.audit(tmp_path / "nowhere", capsys)
        assert code == 2 and out == "" and "nowhere" in err


def test_help_is_quick_and_whole() -> None:
    shown = CliRunner().invoke(app, ["audit-app", "--help"])
    assert shown.exit_code == 0 and "--run-config" in shown.output


def test_observed_rounds_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["audit-app", ".", "--observe", "1,x", "--quiet"]) == 2
    assert "--observe 1,x" in capsys.readouterr().err


def test_the_parent_needs_neither_torch_nor_flower() -> None:
    import subprocess

    code = (
        "import sys, fedlab.apps.apart, fedlab.cli.audit_app;"
        "print(any(name in sys.modules for name in ('torch', 'flwr')))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert shown.stdout.strip() == "False"
