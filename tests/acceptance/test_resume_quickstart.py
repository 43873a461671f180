"""The quickstart, killed three times and resumed, ends like one that was left alone (minutes)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ENTRY = "from fedlab.cli import main; main()"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2400)]


def fedlab(log: Path, *arguments: str | Path, lines: int | None = None) -> int:
    """The exit code; -9 if it was killed when it had said so many lines. What it says goes into a file."""
    command = [sys.executable, "-c", ENTRY, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        with log.open("a") as said:
            for number, line in enumerate(process.stdout, start=1):
                said.write(line)
                if number == lines:
                    process.kill()
    return process.returncode


def test_quickstart_survives_three_kills(tmp_path: Path) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert fedlab(log, "run", "quickstart", "--out", whole) == 0, log.read_text()

    # A cell says twelve lines while it trains: twice in the first ones, then in the last or in an attack.
    draw = random.Random(1)
    moments = [draw.randint(5, 15), draw.randint(5, 15), draw.randint(25, 45)]
    codes = [fedlab(log, "run", "quickstart", "--out", killed, lines=moments[0])]
    codes += [fedlab(log, "resume", killed, lines=count) for count in moments[1:]]
    assert codes == [-signal.SIGKILL] * 3, log.read_text()
    assert manifest(killed)["status"] == "running"

    assert fedlab(log, "resume", killed) == 0, log.read_text()
    for key in ("status", "weights_sha256", "cells"):
        assert manifest(killed)[key] == manifest(whole)[key], key
    assert manifest(killed)["status"] == "finished"
    for name in ("metrics.json", "report.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found
