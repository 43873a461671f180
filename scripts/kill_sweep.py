"""Kill a sweep of real cells twice, and compare what it ends with to one that nobody disturbed.

    python scripts/kill_sweep.py [DIRECTORY]

24 cells (batch size x width x seed), each a run of two rounds on digits with one attack, inline. First the
sweep gets SIGKILL, which it cannot notice, then SIGTERM, each time while cells are at work; then `fedlab
resume` ends it. Both sweeps must have the same report.json and report.html, byte by byte, and every cell the
same trained weights. Takes some minutes on two cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fedlab.experiment.directory import RunDirectory

SCENARIO = """
schema = 1
name = "killed-twice"
[task]
dataset = "digits"
model = { name = "mlp", width = 16 }
[clients]
count = 10
local_steps = 1
[strategy]
rounds = 2
cohort = 5
[runtime]
executor = "inline"
[checkpoint]
every = 1
[audit]
victims = 2
[[attacks]]
name = "linear-layer"
[sweep]
"clients.batch_size" = [1, 2, 4]
"task.model.width" = [16, 32]
seed = [1, 2, 3, 4]
"""
CELLS = 24
KILLS = ((signal.SIGKILL, 6), (signal.SIGTERM, 14))
"""With what, and once so many cells are finished."""
SAME = ("report.json", "report.html", "scenario.toml")
FEDLAB = (sys.executable, "-c", "from fedlab.cli import main; main()")
PATIENCE = 900.0
"""Seconds."""


def main(folder: Path) -> None:
    scenario, whole, killed = folder / "killed-twice.toml", folder / "whole", folder / "killed"
    scenario.write_text(SCENARIO)
    began = time.monotonic()
    sweep = [*FEDLAB, "sweep", str(scenario), "--quiet", "--out"]
    subprocess.run([*sweep, str(whole)], check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {len(finished(whole))} cells finished in {time.monotonic() - began:.0f} s")

    for number, cells in KILLS:
        process = subprocess.Popen(
            [*sweep, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda cells=cells: len(finished(killed)) >= cells and bool(at_work(killed)))
        busy = at_work(killed)
        os.kill(process.pid, number)
        code = process.wait()
        until(lambda: not at_work(killed))
        print(
            f"{number.name}: exit code {code}; {len(busy)} cells were at work ({', '.join(busy)}),"
            f" {len(finished(killed))} are finished"
        )
        if number == signal.SIGTERM and code != 5:
            sys.exit(f"expected exit code 5 after SIGTERM, got {code}")
    subprocess.run([*FEDLAB, "resume", str(killed), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    print(f"resumed: {len(finished(killed))} cells finished")
    differing = [name for name in SAME if (whole / name).read_bytes() != (killed / name).read_bytes()]
    differing += [
        f"weights of {cell}" for cell in finished(whole) if weights(whole, cell) != weights(killed, cell)
    ]
    if differing or len(finished(killed)) != CELLS:
        sys.exit(f"not the same: {', '.join(differing) or 'some cells are missing'}")
    tries = [event["cell"] for event in events(killed) if event["event"] == "started"]
    print(
        f"the same, byte by byte: {', '.join(SAME)}; the same weights in {CELLS} cells;"
        f" {len(tries) - CELLS} cells were begun twice or more"
    )


def finished(sweep: Path) -> list[str]:
    found = []
    for manifest in sorted(sweep.glob("cells/*/manifest.json")):
        if json.loads(manifest.read_bytes())["status"] == "finished":
            found.append(manifest.parent.name)
    return found


def weights(sweep: Path, cell: str) -> dict[str, str]:
    return json.loads((sweep / "cells" / cell / "manifest.json").read_bytes())["weights_sha256"]


def at_work(sweep: Path) -> list[str]:
    """Cells that a process owns."""
    return [cell.name for cell in sorted(sweep.glob("cells/*")) if RunDirectory.owned(cell)]


def events(sweep: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (sweep / "events.jsonl").read_text().splitlines()]


def until(what: Callable[[], bool]) -> None:
    """Wait for it.

    Raises:
        TimeoutError: it did not come to that.
    """
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("the sweep did not come so far")
        time.sleep(0.05)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
