"""What the shell completes, and that colours follow NO_COLOR, FORCE_COLOR and TERM."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fedlab import plugins
from fedlab.cli import completion
from fedlab.scenario.source import shipped
from fedlab.terminal import Live, Plain, watch


def test_names_of_scenarios_and_files_and_folders_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    (tmp_path / "more" / "deep.toml").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    assert completion.scenarios("") == [*shipped(), "mine.toml", "more/"]
    assert completion.scenarios("m") == [*(one for one in shipped() if one[0] == "m"), "mine.toml", "more/"]
    assert completion.scenarios("nowhere/x") == []


def test_run_directories_are_folders_with_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a-1").mkdir(parents=True)
    (tmp_path / "runs" / "b-1").mkdir()
    (tmp_path / "runs" / "a-1" / "manifest.json").touch()
    assert completion.runs("ru") == ["runs/"]
    assert completion.runs("runs/") == ["runs/a-1", "runs/b-1/"]
    assert completion.runs("runs/a") == ["runs/a-1"]


def test_names_of_plugins() -> None:
    assert completion.defenses("dp-") == [name for name in plugins.names("defenses") if name[:3] == "dp-"]
    assert completion.attack_specs("cascade:it") == []
    assert {"dp-sgd", "cascade", "mlp", "quickstart"} <= set(completion.everything(""))


def ran(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    code = f"import sys\nfrom fedlab.cli import main\ntry: main({words.split()!r})\nfinally:"
    code += " print([one for one in ('torch', 'pydantic', 'numpy') if one in sys.modules], file=sys.stderr)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept | environment, check=False
    )


def test_the_shell_gets_names_and_nothing_heavy_is_loaded_for_them() -> None:
    done = ran("", _FEDLAB_COMPLETE="complete_bash", COMP_WORDS="fedlab run quick", COMP_CWORD="2")
    assert done.stdout.split() == ["quickstart"] and done.stderr.strip() == "[]" and done.returncode == 0


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_a_pipe_has_colours_only_when_they_are_forced(environment: dict[str, str], coloured: bool) -> None:
    done = ran("explain nothing-of-the-kind", TERM="xterm-256color", **environment)
    assert done.returncode == 2 and ("[1;31m" in done.stderr) is coloured


def test_a_coloured_log_is_no_terminal_to_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with watch(console=console) as progress:
        assert isinstance(progress, Live)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watch(console=console) as progress:
        assert isinstance(progress, Plain)


def test_help_into_a_pipe_that_nobody_reads_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from fedlab.cli import main; main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""
