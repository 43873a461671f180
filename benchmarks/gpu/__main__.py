"""Measure one GPU and write results/gpu.json; exits 6 where there is none."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu import attacks, cohorts, machine
from benchmarks.harness import RESULTS, Result
from fedlab.errors import BackendError
from fedlab.runtime import quiet_logger


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--tiny", action="store_true", help="next to nothing: does the code work?")
    parser.add_argument("--output", type=Path, help="folder for gpu.json; benchmarks/results unless tiny")
    asked = parser.parse_args(arguments)
    missing = machine.absent(asked.device)
    if missing:
        print(f"error: {missing}", file=sys.stderr)
        return BackendError.exit_code
    quiet_logger()
    torch.set_num_threads(1)
    size = "tiny" if asked.tiny else "full"
    print(f"  {machine.name(asked.device)}, {size}: cohorts", file=sys.stderr, flush=True)
    rows = cohorts.measured(asked.device, cohorts.TINY if asked.tiny else cohorts.FULL)
    print("  attacks", file=sys.stderr, flush=True)
    rows += attacks.measured(asked.device, attacks.TINY if asked.tiny else attacks.FULL)
    notes = [
        "absolute figures of one machine; float32 without TF32, deterministic kernels",
        "random records of CIFAR-10's shape, no accuracy; masks and the noise of DP-SGD are drawn on the CPU",
        "attacks on crops of photographs, labels granted",
    ]
    if asked.tiny:
        notes = ["tiny: the figures say that the code works, and nothing else"]
    result = Result(
        "gpu",
        f"pfl's CIFAR-10 shape and attacks on {machine.name(asked.device)}",
        rows,
        notes,
        versions=machine.versions(asked.device),
    )
    folder = asked.output or (None if asked.tiny else RESULTS)
    if folder is not None:
        result.write(folder)
    print(result.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
