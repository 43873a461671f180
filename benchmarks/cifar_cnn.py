"""A convolutional network on which stacking does not pay: what is left is what the runtime adds.

Work: the CNN of pfl-research's CIFAR-10 speed benchmark (1,626,442 parameters), 50 records per
client in batches of 10, one epoch, cohorts of 50. fedlab runs it with one worker (in this process)
and with two (Ray), pfl and the bare PyTorch loop in one process with one thread.

One-process rates are per second of processor time, which on an idle machine is the wall clock's; two
workers are measured by the wall clock, against pfl's wall clock in the same turn.

Deviations: random records of CIFAR-10's shape; the bare loop averages nothing and draws no dropout
seeds; nobody evaluates.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Result, Row, Side, finish, take_turns
from benchmarks.work import WORKS

TURNS = 3


def main() -> int:
    updates = WORKS["cnn"].cohort
    turns = take_turns(
        {
            "fedlab": (Side("fedlab_side", "train", "cnn", 0), 1, updates),
            "pfl": (Side("pfl_side", "cnn", peer=True), 1, updates),
            "bare": (Side("bare", "cnn"), 1, updates),
            "two workers": (Side("fedlab_side", "train", "cnn", 2), 1, updates),
        },
        TURNS,
    )
    cpu = "cpu_seconds"
    overhead = 100.0 * (1.0 / turns.ratio("fedlab", "bare", cpu) - 1.0)
    rows = [
        Row("× pfl 0.6, one worker", turns.ratio("fedlab", "pfl", cpu), "×", at_least=1.0),
        Row("× pfl 0.6, two workers against its one", turns.ratio("two workers", "pfl"), "×", at_least=1.6),
        Row("more time than a bare PyTorch loop", overhead, "%", at_most=10.0),
        Row("fedlab, one worker: client updates", turns.rate("fedlab", cpu), "/s"),
        Row("fedlab, two workers: client updates", turns.rate("two workers"), "/s"),
        Row("pfl 0.6: client updates", turns.rate("pfl", cpu), "/s"),
        Row("bare PyTorch loop: client updates", turns.rate("bare", cpu), "/s"),
    ]
    result = Result(
        "cifar_cnn",
        "pfl's CIFAR-10 CNN (1.6 M parameters), 50 random records in batches of 10, cohort 50",
        rows,
        notes=["Rates are per second of processor time, with two workers per second of wall clock."],
        measurements=dict(turns.answers),
        versions=turns.versions,
    )
    return finish(result, profile=("benchmarks.sides.profiled", "cnn", "1"))


if __name__ == "__main__":
    sys.exit(main())
