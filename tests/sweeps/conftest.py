"""Sweeps whose cells are `fake_cell.py`: real processes that take no time."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from fedlab import plugins
from fedlab.report import sweep_page
from fedlab.sweeps import children

FAKE = Path(__file__).with_name("fake_cell.py")


ENTRIES, DISTRIBUTION = functools.cache(plugins._entries), functools.cache(plugins._distribution)


@pytest.fixture(autouse=True)
def looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points do not change while tests run, and cells are many."""
    monkeypatch.setattr(plugins, "_entries", ENTRIES)
    monkeypatch.setattr(plugins, "_distribution", DISTRIBUTION)


def faked(patch: pytest.MonkeyPatch) -> None:
    """Let cells be made by `fake_cell.py`, and leave out the page, which takes a second."""
    patch.setattr(sweep_page, "render", lambda data: data["headline"])
    patch.setattr(children, "PROGRAM", (sys.executable, "-S", "-E", str(FAKE)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells take no time."""
    faked(monkeypatch)


def tables(**changes: Any) -> dict[str, Any]:
    """A scenario without a sweep."""
    base: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8}},
        "clients": {"count": 4, "batch_size": 1, "local_steps": 1},
        "strategy": {"rounds": 2},
        "runtime": {"executor": "inline"},
        "audit": {"victims": 1},
        "attacks": [{"name": "linear-layer"}],
    }
    return base | changes
