"""The quickstart, killed three times and resumed, ends like one that was left alone (minutes)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ENTRY = "from fedlab.cli import main; main()"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2400)]


def fedlab(log: Path, *arguments: str | Path, seconds: float | None = None) -> int:
    """The exit code; -9 if it was killed after so many seconds. What it says goes into a file."""
    command = [sys.executable, "-c", ENTRY, *map(str, arguments)]
    with log.open("a") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def test_quickstart_survives_three_kills(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log, begin = tmp_path / "log", time.monotonic()
    assert fedlab(log, "run", "quickstart", "--out", whole) == 0, log.read_text()
    seconds = time.monotonic() - begin

    moments = sorted(random.Random(3).uniform(0.15, 0.8) for _ in range(3))
    spent = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    start = 0.15 * seconds  # what a process needs before it goes on where the last one stopped
    codes = [fedlab(log, "run", "quickstart", "--out", killed, seconds=spent[0] * seconds)]
    codes += [fedlab(log, "resume", killed, seconds=start + share * seconds) for share in spent[1:]]
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
