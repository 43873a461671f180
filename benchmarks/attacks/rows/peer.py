"""Inverting Gradients beside breaching 0.1.2: time to 22 dB, and iterations per second.

Same network, same victims, same gradients, labels known to both, one thread each, in turns. breaching attacks
one victim after the other; ours takes all at once, which is what one would do. Each side may choose its
number of iterations from the same list, because both schedules are relative to it: the least with which the
median image reaches 22 dB counts. Scores are those of the iterate that the attacker selects.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.attacks.peer_work import NETWORKS
from benchmarks.attacks.scene import dataset
from benchmarks.harness import PEERS, ROOT, Result, Row, Side, Turns, finish, take_turns
from fedlab.tasks import initialise

SEED, VICTIMS, BATCH, TURNS = 0, 16, 8, 3
BUDGETS = (50, 75, 100, 150, 200, 300, 450, 700)
WANTED = 22.0
ITERATIONS = {"lenet": 300, "3-conv": 150}
"""Enough that what each side does before the first iteration hardly counts."""


def main() -> int:
    work = (
        "Inverting Gradients, 32 x 32 colour (CIFAR samples), B = 1, evaluation mode, untrained, labels"
        " known, one thread, seed 0"
    )
    result = Result("attack_peer", work, [])
    if not peer_runs():
        result.notes.append("peer unavailable: breaching cannot be imported here; nothing is judged")
        return finish(result)
    with tempfile.TemporaryDirectory() as directory:
        files = {name: victims(name, Path(directory)) for name in NETWORKS}
        time_to_quality(result, files["3-conv"])
        for name, least in (("lenet", 3.0), ("3-conv", 1.2)):
            rate(result, name, files[name], least)
    return finish(result)


def peer_runs() -> bool:
    """Whether breaching's attacker can be imported in the peers' environment."""
    check = "from benchmarks.attacks.breaching_shim import attacker_class; attacker_class()"
    found = PEERS.exists() and subprocess.run([str(PEERS), "-c", check], cwd=ROOT, capture_output=True)
    return bool(found) and not found.returncode


def victims(name: str, directory: Path) -> Path:
    """A file with a network and the images of all victims."""
    data, _ = dataset("cifar-samples")
    ids = np.arange(VICTIMS)
    content = {
        "network": name,
        "state": initialise(NETWORKS[name], SEED).state_dict(),
        "images": data.images(ids)[:, None],
        "labels": data.labels(ids)[:, None],
    }
    path = directory / f"{name}.pt"
    torch.save(content, path)
    return path


def budget(side: Side) -> tuple[int | None, float]:
    """The least number of iterations that reaches the quality, and the median PSNR there."""
    score = 0.0
    for iterations in BUDGETS:
        score = side.measure(iterations)["psnr"]
        if score >= WANTED:
            return iterations, score
    return None, score


def time_to_quality(result: Result, file: Path) -> None:
    sides = {
        "fedlab": Side("inversion_side", file, VICTIMS),
        "breaching": Side("breaching_side", file, VICTIMS, peer=True),
    }
    chosen = {}
    for name, side in sides.items():
        with side:
            result.versions |= side.ready()
            chosen[name], score = budget(side)
        result.notes.append(f"{name}: {chosen[name] or BUDGETS[-1]} iterations give {score:.1f} dB")
    if chosen["fedlab"] is None:
        result.rows.append(Row("time to 22 dB, times shorter", 0.0, at_least=2.0))
        return
    if chosen["breaching"] is None:
        result.notes.append("breaching stays below 22 dB: the ratio is a lower bound, at its largest budget")
    asked = {name: iterations or BUDGETS[-1] for name, iterations in chosen.items()}
    turns = take_turns({name: (side, asked[name], 1) for name, side in sides.items()}, TURNS)
    result.measurements["time to 22 dB"] = turns.answers
    result.rows += [
        Row("time to 22 dB, times shorter", turns.ratio("fedlab", "breaching"), at_least=2.0),
        Row("fedlab, 3-conv, to 22 dB", turns.median("fedlab", "seconds") / VICTIMS, "s per victim"),
        Row("breaching, 3-conv, to 22 dB", turns.median("breaching", "seconds") / VICTIMS, "s per victim"),
    ]


def rate(result: Result, name: str, file: Path, least: float) -> None:
    """Iterations per second and victim, eight in a batch; fedlab's polish (a tenth more) counts as done."""
    count = ITERATIONS[name]
    sides = {
        "fedlab": (Side("inversion_side", file, BATCH), count, (count + count // 10) * BATCH),
        "breaching": (Side("breaching_side", file, 1, peer=True), count, count),
    }
    turns: Turns = take_turns(sides, TURNS)
    result.measurements[name] = turns.answers
    result.rows += [
        Row(f"{name}, it/s per victim, times faster", turns.ratio("fedlab", "breaching"), at_least=least),
        Row(f"fedlab, {name}, 8 victims", turns.rate("fedlab"), "it/s per victim"),
        Row(f"breaching, {name}, one victim", turns.rate("breaching"), "it/s per victim"),
    ]


if __name__ == "__main__":
    sys.exit(main())
