"""`fedlab resume`: what it passes on, what it prints, and Ctrl-C in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedlab import errors
from fedlab.experiment.directory import RunDirectory

ENTRY = "from fedlab.cli import main; main()"


def test_it_passes_on_the_directory_and_what_may_change(fedlab: Any, fake_run: Any, begun: Path) -> None:
    answer = fedlab("resume", begun, "--set", "runtime.executor=inline", "--force")
    assert answer.code == 0
    assert fake_run.calls == [{"path": begun, "overrides": ["runtime.executor=inline"], "force": True}]
    assert answer.out.splitlines()[-2:] == [str(fake_run.directory), str(fake_run.directory / "report.html")]
    assert "noise from a library" in answer.err and "noise from a library" not in answer.out
    assert fedlab("resume", begun, "-q").code == 0 and fake_run.calls[-1]["overrides"] == []


def test_json_is_one_object_on_stdout(fedlab: Any, fake_run: Any, begun: Path) -> None:
    answer = fedlab("resume", begun, "--json")
    assert answer.json["directory"] == str(fake_run.directory) and "train none" in answer.err


def test_help_says_what_it_is_for(fedlab: Any) -> None:
    answer = fedlab("resume", "--help")
    assert answer.code == 0
    for word in ("RUN", "--set", "--force", "--json", "same bits"):
        assert word in answer.out


@pytest.mark.parametrize(
    "error",
    [
        errors.UsageError("locked"),
        errors.DataError("no run"),
        errors.Interrupted("again"),
        errors.BackendError("versions"),
    ],
)
def test_its_errors_have_their_exit_codes(
    fedlab: Any, fake_run: Any, begun: Path, error: errors.FedlabError
) -> None:
    fake_run.error = error
    answer = fedlab("resume", begun, "-q")
    assert (answer.code, answer.out) == (error.exit_code, "")
    assert answer.err.splitlines()[-1] == f"error: {error}"


def test_what_is_no_run_is_one_line_and_exit_code_3(fedlab: Any, tmp_path: Path) -> None:
    answer = fedlab("resume", tmp_path)
    assert answer.code == 3 and answer.out == "" and "no manifest.json" in answer.err


def test_a_mistyped_path_is_a_mistake_of_usage(fedlab: Any, tmp_path: Path) -> None:
    answer = fedlab("resume", tmp_path / "rnus")
    assert answer.code == 2 and "there is no such directory" in answer.err
    (tmp_path / "small.toml").write_text("schema = 1\n")
    answer = fedlab("resume", tmp_path / "small.toml")
    assert answer.code == 2 and "small.toml: is a file; expected the directory" in answer.err


def test_whether_a_run_is_finished_is_told_without_torch(begun: Path) -> None:
    (begun / "manifest.json").write_text('{"schema": 1, "status": "finished"}')
    script = (
        "import sys; from pathlib import Path; from fedlab.cli.run import _is_finished;"
        f"assert _is_finished(Path({str(begun)!r}));"
        "print(*{'torch', 'flwr', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_a_locked_run_is_refused_before_anything_is_loaded(fedlab: Any, fake_run: Any, begun: Path) -> None:
    with RunDirectory.open(begun).locked():
        answer = fedlab("resume", begun)
    assert answer.code == 2 and f"is locked by pid {os.getpid()}" in answer.err and not fake_run.calls


def test_ctrl_c_at_a_terminal_ends_with_code_5_and_the_way_to_go_on(tmp_path: Path, fedlab: Any) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(
        'schema = 1\n[task]\ndataset = "digits"\nmodel = { name = "mlp", width = 8 }\n'
        "[clients]\ncount = 4\nbatch_size = 2\nlocal_steps = 1\n[strategy]\nrounds = 200\n"
        '[runtime]\nexecutor = "inline"\n[audit]\nvictims = 1\n[checkpoint]\nevery = 1000\n'
    )
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY, "run", str(scenario), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train none-train-s0: 20 of 200"):
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
            break
    printed, told = process.communicate()
    assert process.returncode == 5 and printed == ""
    lines = told.splitlines()
    assert "stopping after this round; Ctrl-C again stops at once" in lines
    assert lines[-1] == f"error: stopped by the user. To go on from there: fedlab resume {out}"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "interrupted" and (out / "checkpoints/none-train-s0").exists()
    answer = fedlab("resume", out)
    assert answer.code == 0 and answer.out.splitlines()[-2] == str(out)
    assert "train none-train-s0: goes on after round" in answer.err
    again = fedlab("resume", out)
    assert again.code == 0 and "nothing is left to do" in again.err
