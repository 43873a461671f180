"""What keeps foreign code within bounds inside one process, and its failures apart from ours.

An app may print, seed, change directory, or set torch's defaults; all of it is as before when the app has
had its turn. What ends or blocks the process itself is for whoever started it.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

import fedlab
from fedlab.runtime import single_thread
from fedlab.runtime.executors import generators_kept, seed_generators

LINES, WIDTH = 200, 1000
"""How much is kept of what an app prints: lines, and characters of each."""
_OURS = str(Path(fedlab.__file__).parent) + os.sep


class Printed(io.RawIOBase):
    """The last lines written to it; of a line that rewrites itself (a progress bar), the last version."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        *whole, rest = (self._rest + bytes(data)).split(b"\n")
        self._lines.extend(_line(one) for one in whole)
        self._rest = rest[-4 * WIDTH :]
        return len(data)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple([*self._lines, *([_line(self._rest)] if self._rest else [])][-LINES:])


def _line(data: bytes) -> str:
    return data.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2][:WIDTH]


@contextmanager
def bounded(printed: Printed, folder: Path, seed: int) -> Iterator[None]:
    """The app's turn: with `folder` first on Python's path, the global generators seeded, and stdout, stderr
    and Flower's warnings going to `printed`."""
    # TextIOWrapper: an app may write to sys.stdout.buffer as well.
    stream = io.TextIOWrapper(printed, encoding="utf-8", errors="replace", write_through=True)  # type: ignore[type-var]
    with ExitStack() as undo:
        for context in (redirect_stdout(stream), redirect_stderr(stream), warnings.catch_warnings()):
            undo.enter_context(context)
        for kept in (_logging(stream), generators_kept(), single_thread(), _torch_defaults(), _process()):
            undo.enter_context(kept)
        sys.path.insert(0, str(folder))
        seed_generators(seed)
        yield


@contextmanager
def _logging(stream: Any) -> Iterator[None]:
    """Flower's warnings go to the stream, and what it logs of each round nowhere."""
    logger = logging.getLogger("flwr")
    before = list(logger.handlers), logger.level, logger.propagate
    logger.handlers, logger.propagate = [logging.StreamHandler(stream)], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


@contextmanager
def _torch_defaults() -> Iterator[None]:
    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    exact = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if (
            torch.are_deterministic_algorithms_enabled() != exact
        ):  # the call takes seconds: it loads a compiler
            torch.use_deterministic_algorithms(exact)


@contextmanager
def _process() -> Iterator[None]:
    folder, path, environment = Path.cwd(), list(sys.path), dict(os.environ)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:] = path
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def own_traceback(error: BaseException, folder: Path) -> str:
    """The traceback as the app's author would see it: it begins in `folder`, and has none of our frames."""
    told = traceback.TracebackException.from_exception(error)
    _strip(told, str(folder.resolve()) + os.sep)
    return "".join(told.format()).rstrip("\n")


def _strip(told: traceback.TracebackException, folder: str) -> None:
    frames = list(told.stack)
    first = next((i for i, one in enumerate(frames) if os.path.realpath(one.filename).startswith(folder)), 0)
    told.stack[:] = [one for one in frames[first:] if not one.filename.startswith((_OURS, "<frozen "))]
    for other in (told.__cause__, told.__context__):
        if other is not None:
            _strip(other, folder)


def words(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def exit_code(error: SystemExit) -> int:
    """The code with which Python would have ended the process."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1
