"""What the disk holds if the process dies at a given moment, without dying.

A killed process leaves exactly what it had handed to the kernel. So one run, with a copy of its
directory taken before and after each change of a file, is worth as many kills as it has changes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedlab import files, plugins

LOCKS = {".lock", ".lock.pid"}


def quick_scenario(**changes: Any) -> dict[str, Any]:
    """Momentum on the server, dropout, dp-sgd, evaluations, checkpoints and one attack, in a second.

    Without the checks of the mechanism, which would take three times as long as all that.
    """
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 3,
        "name": "quick",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1, "dropout": 0.5}},
        "clients": {"count": 4, "batch_size": 2, "local_steps": 1},
        "strategy": {
            "rounds": 5,
            "cohort": 3,
            "evaluate_every": 2,
            "server_optimizer": {"momentum": 0.5},
        },
        "runtime": {"executor": "inline"},
        "checkpoint": {"every": 2},
        "privacy": {"check": False},
        "audit": {"rounds": [1, 3], "victims": 2, "include_samples": True},
        "attacks": [{"name": "linear-layer"}],
        "defenses": [
            {"name": "none"},
            {"name": "dp-sgd", "noise_multiplier": 1.0, "max_grad_norm": 0.1},
        ],
    }
    return base | changes


def quick_plugins(patch: pytest.MonkeyPatch) -> None:
    """Look the entry points up once, and draw no page: what is compared is report.json."""
    patch.setattr(plugins, "_entries", functools.cache(plugins._entries))
    patch.setattr(importlib.import_module("fedlab.report.build"), "render", lambda *parts: "")


class Steps:
    """A progress listener that calls `act` with (what happens, step)."""

    def __init__(self, act: Callable[[str, int], None] = lambda what, step: None) -> None:
        self.act = act
        self.messages: list[str] = []

    def start(self, job: str, total: int) -> None: ...

    def advance(self, job: str, done: int, note: str = "") -> None:
        self.act(job, done)

    def finish(self, job: str, note: str = "") -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)
        self.act(text, 0)


def result(directory: Path) -> dict[str, str]:
    """Hashes of everything that a run ends with, except what tells the time."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and path.name not in {*LOCKS, "events.jsonl", "manifest.json", "report.html"}:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads((directory / "manifest.json").read_text())
    for key in ("status", "weights_sha256", "cells"):
        found[key] = json.dumps(manifest[key])
    return found


def moments(run: Callable[[], object], directory: Path, copies: Path) -> list[Path]:
    """Run once; copies of `directory` at every moment at which a kill would leave another state."""
    taken: dict[str, Path] = {}
    busy = False  # copying removes files, too

    def take(half_line: Path | None = None, line: str = "") -> None:
        nonlocal busy
        if busy or not directory.exists():
            return
        busy = True
        copy = copies / f"moment-{len(taken):03d}"
        shutil.copytree(directory, copy, ignore=lambda folder, names: LOCKS & set(names))
        if half_line is not None:
            with (copy / half_line.relative_to(directory)).open("a") as file:
                file.write(line[: len(line) // 2])
        key = _state(copy)
        if key in taken:
            shutil.rmtree(copy)
        else:
            taken[key] = copy
        busy = False

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            take()
            answer = real(*arguments, **options)
            take()
            return answer

        return call

    append = files.append

    def appended(path: Path, lines: Iterable[str], *, durable: bool = False) -> None:
        lines = list(lines)
        take(path if path.exists() else None, lines[-1])
        append(path, lines, durable=durable)
        take()

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, around(getattr(os, name)))
        patch.setattr(files, "append", appended)
        run()
    return list(taken.values())


def _state(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(str(path.relative_to(directory)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def killed_at(count: int) -> Iterator[None]:
    """SIGKILL this process at the `count`-th rename of a file."""
    real, calls = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), 9)
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield
