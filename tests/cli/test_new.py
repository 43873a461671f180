"""`fedlab new`: what it writes passes its own test and runs by name; what it cannot write is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedlab as library
from fedlab import plugins
from fedlab.cli.new import KINDS

ROOT = Path(__file__).resolve().parents[2]


def installed(folder: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pip install -e` leaves it: the folder on the path, and an entry point in a .dist-info there."""
    module, text = f"fedlab_{name.replace('-', '_')}", (folder / "pyproject.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
    info = folder / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fedlab-{name}\nVersion: 0.1.0\n")
    entry = line.replace('"', "")
    (info / "entry_points.txt").write_text(f"[fedlab.{KINDS[kind].group}]\n{entry}\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_runs_by_name(
    fedlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = f"my-{kind}"
    answer = fedlab("new", kind, name, "--out", tmp_path / "mine")
    assert answer.code == 0 and f"strategy.{KINDS[kind].key}={name}" in answer.out
    installed(tmp_path / "mine", name, kind, monkeypatch)
    assert plugins.provider(KINDS[kind].group, name) == f"fedlab-{name}"
    assert f"{name}  {kind.replace('-', ' ')}, from fedlab-{name}" in fedlab("info", name).out
    scenario = {
        "schema": 1,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
        "clients": {"count": 4, "local_steps": 1},
        "strategy": {"rounds": 2, "cohort": 3, KINDS[kind].key: name},
        "runtime": {"executor": "inline"},
    }
    report = library.run(scenario, out=tmp_path / "run")
    assert report.data["utility"][0]["accuracy"] > 0.0


def test_its_own_test_passes(fedlab: Any, tmp_path: Path) -> None:
    fedlab("new", "aggregator", "mine", "--out", tmp_path / "mine")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["aggregator", "Clipped_Mean"], 'Did you mean "clipped-mean"?'),
        (["aggregator", "3d"], 'Did you mean "d"?'),
        (["aggregator", "a--b"], "joined by single dashes"),
        (["aggregator", "x" * 41], "expected 1 to 40"),
        (["aggregator", "../krum"], 'Did you mean "krum"?'),
        (["aggregator", "mean"], "is taken by fedlab-audit"),
        (["local-rule", "scaffold"], "`fedlab info local_rules/scaffold`"),
        (["agregator", "mine"], 'Did you mean "aggregator"?'),
        (["attack", "mine"], "Known: aggregator, local-rule, sampler, server-optimizer"),
    ],
)
def test_what_cannot_be_written_is_refused(
    fedlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = fedlab("new", *arguments)
    assert answer.code == 2 and told in " ".join(answer.err.split())
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(fedlab: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    answer = fedlab("new", "aggregator", "mine", "--out", tmp_path / "mine")
    assert answer.code == 2 and "new or empty" in answer.err
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_pip_installs_it(fedlab: Any, tmp_path: Path) -> None:
    """Into a folder of its own, from which a new process finds the entry point."""
    fedlab("new", "aggregator", "by-pip", "--out", tmp_path / "mine")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "mine"], check=True)
    code = "from fedlab import plugins; print(plugins.build('aggregators', 'by-pip'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert "fedlab_by_pip.ByPip" in done.stdout, done.stderr
