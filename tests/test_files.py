"""Atomic writing: the old file or the new one, whatever the disk does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedlab import files
from fedlab.errors import BackendError

REFUSALS = {
    "no space": ("write", OSError(28, "No space left on device")),
    "read-only": ("open", OSError(30, "Read-only file system")),
    "a broken disk": ("fsync", OSError(5, "Input/output error")),
    "no rename": ("replace", OSError(28, "No space left on device")),
}


def refuse(patch: pytest.MonkeyPatch, where: str, error: OSError) -> None:
    """Let one step of writing a file fail."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    if where in ("fsync", "replace"):
        patch.setattr(os, where, fail)
    elif where == "open":
        patch.setattr(Path, "open", fail)
    else:
        real = Path.open

        def opened(path: Path, *arguments: Any, **options: Any) -> Any:
            file = real(path, *arguments, **{**options, "buffering": 0})
            return Full(file, error)

        patch.setattr(Path, "open", opened)


class Full:
    """A file that takes half of what it is given."""

    def __init__(self, file: Any, error: OSError) -> None:
        self.file, self.error = file, error

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise self.error


@pytest.mark.parametrize("case", REFUSALS)
def test_when_the_disk_refuses_the_old_file_stays_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    before = target.read_bytes()
    where, error = REFUSALS[case]
    with monkeypatch.context() as patch:
        refuse(patch, where, error)
        with pytest.raises(BackendError, match=rf"cannot write .*a\.json: {error.strerror}"):
            files.write_json(target, {"new": 2})
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_is_stopped_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_content_is_on_the_disk_before_the_name_and_the_name_before_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append(f"flush {Path(os.readlink(f'/proc/self/fd/{handle}')).name.partition('.tmp')[0]}")
        flush(handle)

    def replace(source: Any, target: Any) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write(tmp_path / "new" / "a", b"content")
    # The new folder's name, the content, the file's name.
    assert steps == [f"flush {tmp_path.name}", f"flush .a.{os.getpid()}", "rename", "flush new"]


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    files.write_tensors(tmp_path / "t", {"whole": base, "row": base[1], "column": base[:, 1]})
    found = load_file(tmp_path / "t")
    assert torch.equal(found["whole"], base) and found["row"].tolist() == [3.0, 4.0, 5.0]
    assert found["column"].tolist() == [1.0, 4.0]


def test_half_a_line_is_cut_off_and_whole_lines_stay(tmp_path: Path) -> None:
    log = tmp_path / "log"
    files.drop_half_line(log)
    assert not log.exists()
    files.append(log, ["one", "two"], durable=True)
    with log.open("a") as file:
        file.write("thr")
    files.drop_half_line(log)
    files.append(log, ["four"])
    assert log.read_text() == "one\ntwo\nfour\n"
    log.write_text("only half")
    files.drop_half_line(log)
    assert log.read_text() == ""


@pytest.mark.parametrize("durable", [True, False])
def test_a_log_that_cannot_grow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    refuse(monkeypatch, "write", OSError(28, "No space left on device"))
    with pytest.raises(BackendError, match=r"cannot write .*log: No space"):
        files.append(tmp_path / "log", ["line"], durable=durable)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (".a.123.tmp", "in/.b.json.9.tmp", "mine.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    files.remove_temporaries(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"mine.tmp", ".hidden"}
