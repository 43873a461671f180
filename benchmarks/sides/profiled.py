"""Where fedlab's time goes: `python -m benchmarks.sides.profiled WORK ROUNDS` (cProfile, this process)."""

from __future__ import annotations

import cProfile
import pstats
import sys

import torch

from benchmarks.sides.fedlab_side import WARM_UP, Federation
from benchmarks.work import WORKS
from fedlab.runtime import InlineExecutor, quiet_logger

LINES = 20


def main() -> None:
    quiet_logger()
    torch.set_num_threads(1)
    federation = Federation(WORKS[sys.argv[1]], InlineExecutor())
    train = federation.rounds("ours")
    train(WARM_UP if federation.cut.stacked else 1)  # frequent shapes are recorded by then
    profile = cProfile.Profile()
    profile.runcall(train, int(sys.argv[2]))
    stats = pstats.Stats(profile).strip_dirs()
    stats.sort_stats("tottime").print_stats(LINES)
    stats.sort_stats("cumulative").print_stats(LINES)


if __name__ == "__main__":
    main()
