"""`fedlab runs`: what it prints, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.registry.conftest import Fedlab, write, write_sweep


@pytest.fixture
def several(folder: Path) -> Path:
    """Four runs: two finished, one killed, one of a newer fedlab; and a directory that is damaged."""
    write(folder / "small-1")
    write(folder / "small-2", started="2026-11-22T00:00:00+00:00")
    write(folder / "small-3", status="running")
    write(folder / "later-1", schema=9)
    write(folder / "broken-1")
    (folder / "broken-1" / "manifest.json").write_text("{")
    return folder


def names(fedlab: Fedlab, *arguments: str) -> list[str]:
    code, out, _ = fedlab("runs", "list", "--json", *arguments)
    assert code == 0
    return [one["name"] for one in json.loads(out)]


def test_a_line_per_run(several: Path, fedlab: Fedlab) -> None:
    fedlab("runs", "tag", "small-2", "baseline")
    code, out, err = fedlab("runs", "list")
    assert code == 0 and err == ""
    lines = {line.split()[0]: line for line in out.splitlines() if line[:1] != " "}
    assert set(lines) == {"run", "small-1", "small-2", "small-3", "later-1", "broken-1"}
    for word in ("finished", "1/2", "50.0–87.5 %", "strong 18.0 dB, 3/4", "3.15, or none", "baseline"):
        assert word in lines["small-2"]
    assert "killed" in lines["small-3"] and "newer" in lines["later-1"] and "damaged" in lines["broken-1"]
    assert "Nothing leaks." in lines["small-1"]


def test_filters(several: Path, fedlab: Fedlab) -> None:
    assert set(names(fedlab, "--status", "finished", "--status", "killed")) == {
        "small-1",
        "small-2",
        "small-3",
    }
    fedlab("runs", "tag", "small-1", "a", "b")
    fedlab("runs", "tag", "small-2", "a")
    assert set(names(fedlab, "--tag", "a")) == {"small-1", "small-2"}
    assert names(fedlab, "--tag", "a", "--tag", "b") == ["small-1"]
    assert names(fedlab, "--tag", "a", "--status", "failed") == []
    code, out, err = fedlab("runs", "list", "--status", "done")
    assert (code, out) == (2, "") and "finished" in err
    code, out, err = fedlab("runs", "list", "--dir", "nowhere")
    assert (code, out) == (0, "") and "no runs" in err


def test_one_screen(several: Path, fedlab: Fedlab) -> None:
    fedlab("runs", "note", "small-3", "the machine was switched off")
    code, out, _ = fedlab("runs", "show", "small-3")
    assert code == 0 and len(out.splitlines()) <= 24
    for words in ("killed", "Nothing leaks.", "1 of 2 cells", "fedlab resume runs/small-3", "switched off",
                  "A server that only watches", "2 of 3 failed"):  # fmt: skip
        assert words in out
    for name, why in (("later-1", "schema 9"), ("broken-1", "is damaged")):
        code, out, _ = fedlab("runs", "show", name)
        assert code == 0 and why in out
    code, _, err = fedlab("runs", "show", "small-9")
    assert code == 2 and "Did you mean" in err
    code, out, _ = fedlab("runs", "show", "--json", "small-1")
    assert code == 0 and json.loads(out)["headline"]["attack"] == "strong"


def test_tags_and_notes(several: Path, fedlab: Fedlab) -> None:
    assert fedlab("runs", "tag", "small-1", "b", "a")[:2] == (0, "a b\n")
    assert fedlab("runs", "tag", "small-1", "--remove", "b")[:2] == (0, "a\n")
    assert fedlab("runs", "tag", "small-1")[:2] == (0, "a\n")
    assert fedlab("runs", "note", "small-1", "good")[:2] == (0, "good\n")
    assert fedlab("runs", "note", "small-1", "")[:2] == (0, "\n")
    assert fedlab("runs", "note", "small-1")[:2] == (0, "\n")
    assert fedlab("runs", "tag", "small-1", "a b")[0] == 2
    assert fedlab("runs", "tag", "later-1", "a")[0] == fedlab("runs", "tag", "broken-1", "a")[0] == 3


def test_removing(several: Path, fedlab: Fedlab) -> None:
    keep = several.parent / "keep"
    keep.mkdir()
    (keep / "precious").touch()
    (several / "small-1" / "link").symlink_to(keep)
    (several / "small-1" / "models" / "deep").mkdir(parents=True)
    (several / "small-1" / "models" / "deep" / "link").symlink_to(keep / "precious")
    code, out, _ = fedlab("runs", "rm", "small-1", "small-3", "broken-1", "--yes")
    assert code == 0 and len(out.splitlines()) == 3
    assert sorted(one.name for one in several.iterdir()) == ["later-1", "small-2"]
    assert (keep / "precious").is_file()


def test_what_is_not_removed(several: Path, fedlab: Fedlab, tmp_path: Path) -> None:
    other = several.parent / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "an app"}')
    (other / "file").touch()
    (several / "link").symlink_to(several / "small-2")
    with FileLock(several / "small-2" / ".lock"):
        (several / "small-2" / ".lock.pid").write_text(f"{os.getpid()}\n")
        code, _, err = fedlab("runs", "rm", "small-1", "small-2", "--yes")
        assert code == 2 and f"pid {os.getpid()}" in err
    for name in (other, "link", ".", several, "small-9"):
        assert fedlab("runs", "rm", "small-1", name, "--yes")[0] == 2
    assert fedlab("runs", "rm", "small-1", "later-1", "--yes")[0] == 3
    code, _, err = fedlab("runs", "rm", "small-1")
    assert code == 2 and "--yes" in err
    assert (several / "small-1" / "report.json").is_file()  # all of them, or none
    assert (other / "file").is_file() and (several / "small-2" / "report.json").is_file()


def test_a_sweep_is_one_line(folder: Path, fedlab: Fedlab) -> None:
    sweep = write_sweep(folder / "sweep-1", ("one", "two"), axes=[{"key": "seed", "values": [1, 2]}])
    cell = json.loads((sweep / "cells" / "one" / "report.json").read_text())
    write(sweep / "cells" / "two")
    weak = cell["attacks"][1] | {"psnr_median": 12.5, "fraction_recovered": 0.0, "recovered": 0}
    (sweep / "cells" / "two" / "report.json").write_text(json.dumps(cell | {"attacks": [weak]}))
    (sweep / "report.html").touch()
    code, out, _ = fedlab("runs", "list")
    (line,) = out.splitlines()[1:]
    assert code == 0
    for word in ("sweep-1", "finished", "2/2", "strong 12.5–18.0 dB, 0/4–3/4", "3.15, or none"):
        assert word in line
    assert names(fedlab) == ["sweep-1"]
    assert set(names(fedlab, "--cells")) == {"sweep-1", "sweep-1/cells/one", "sweep-1/cells/two"}
    assert names(fedlab, "--cells", "--status", "running") == []
    fedlab("runs", "tag", "sweep-1/cells/two", "odd")
    assert names(fedlab, "--tag", "odd") == ["sweep-1/cells/two"]
    code, out, _ = fedlab("runs", "show", "sweep-1")
    assert code == 0 and "seed = 1, 2" in out and "12.5–18.0 dB" in out


def test_a_sweep_is_shown_tagged_and_removed_with_its_cells(several: Path, fedlab: Fedlab) -> None:
    sweep = write_sweep(several / "sweep-1", ("one", "two"))
    code, out, _ = fedlab("runs", "show", "sweep-1")
    assert code == 0 and "1 of 2 finished" in out and "interrupted" in out
    assert f"fedlab resume {sweep.relative_to(several.parent)}" in out
    assert fedlab("runs", "tag", "sweep-1", "paper")[:2] == (0, "paper\n")
    code, _, err = fedlab("runs", "export", "sweep-1", "--to", "tensorboard")
    assert code == 2 and "is a sweep" in err and "sweep-1/cells/NAME" in err
    with FileLock(sweep / "cells" / "one" / ".lock"):  # a cell may outlive its sweep for a moment
        code, _, err = fedlab("runs", "rm", "sweep-1", "--yes")
        assert code == 2 and "cells/one is locked" in err
    (sweep / "sweep.json").write_text(json.dumps({"schema": 2}))
    assert fedlab("runs", "rm", "sweep-1", "--yes")[0] == 3 and (sweep / "cells" / "one").is_dir()
    write_sweep(several / "sweep-2")
    code, out, _ = fedlab("runs", "rm", "sweep-2/cells/one", "sweep-2", "--yes")
    assert code == 0 and len(out.splitlines()) == 1 and not (several / "sweep-2").exists()


def test_nobody_removes_the_ground_beneath(
    several: Path, fedlab: Fedlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(several / "small-1")
    assert fedlab("runs", "rm", several / "small-1", "--yes")[0] == 2


@pytest.mark.parametrize(("answer", "left"), [("y\n", False), ("n\n", True), ("\n", True), ("", True)])
def test_a_terminal_is_asked(
    several: Path, fedlab: Fedlab, monkeypatch: pytest.MonkeyPatch, answer: str, left: bool
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr("fedlab.cli.runs.asks", lambda: True)
    code, _, err = fedlab("runs", "rm", "small-1")
    assert "finished" in err and (several / "small-1").exists() == left
    assert code == (5 if left else 0)
