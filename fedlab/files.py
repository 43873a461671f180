"""The one home of writing files: a reader finds the old file or the new one, never half of one.

Written to a temporary name, flushed to the disk, renamed, and the folder flushed, so that not even a
power cut leaves a file that looks whole and is not. Logs grow by whole lines; a line that a kill cut
off is dropped before the next one is added.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, creating its folder.

    Raises:
        BackendError: the disk refuses; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with refusal(path):
        _make_folder(path.parent)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """As `write`, in UTF-8."""
    write(path, text.encode())


def write_json(path: Path, data: Mapping[str, Any], *, indent: int = 1) -> None:
    """As `write`, strict JSON: NaN is an error here, not a token."""
    write_text(path, json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """As `write`, in safetensors, which holds no two names for one memory: views are copied."""
    from safetensors.torch import save  # and torch: whoever only looks at a run need not wait for it

    write(path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))


def append(path: Path, lines: Iterable[str], *, durable: bool = False) -> None:
    """Add lines to a log; `durable` waits until the disk has them.

    Raises:
        BackendError: the disk refuses.
    """
    content = "".join(f"{line}\n" for line in lines)
    with refusal(path):
        new = not path.exists()
        _make_folder(path.parent)
        with path.open("ab") as file:
            file.write(content.encode())
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if new and durable:
            _flush_folder(path.parent)


def drop_half_line(path: Path) -> None:
    """Cut off what a kill left of a log's last line; a log that does not exist is left so.

    Raises:
        BackendError: the disk refuses.
    """
    with refusal(path):
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left behind, in `folder` and below.

    Raises:
        BackendError: the disk refuses.
    """
    with refusal(folder):
        for path in folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def sha256(content: bytes) -> str:
    """Hash of a file's content."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def refusal(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one error that names the file."""
    try:
        yield
    except OSError as error:
        raise BackendError(
            f"cannot write {path}: {error.strerror or error}; expected a writable directory with free space"
        ) from error


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    """A rename lives in the folder, which has a cache of its own."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
