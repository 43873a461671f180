"""Pre- against post-activation ResNet in training mode: exact, proxy and no batch statistics.

Sized for a CPU: `make map` has the full row (`benchmarks.attacks.full_map`).
"""

from __future__ import annotations

import sys

from benchmarks.attacks.norm_study import Study, halved
from benchmarks.attacks.scene import dataset
from benchmarks.harness import Result, finish

SEED = 0


def main() -> int:
    data, _ = dataset("fashion-mnist")
    study = Study(
        data=halved(data),
        network={"depth": 1, "stages": 1, "width": 64, "head": "flatten"},
        batch=4,
        victims=4,
        iterations=1000,
        seed=SEED,
    )
    found = study.run()
    notes = [
        "4 victims; labels granted, as in the paper; proxy statistics of 16 other batches; intervals (95 %)"
        " are paired by victim, over each one's mean PSNR; the bar is that they do not lie below 0",
        found.power(),
        "half resolution, to fit minutes of CPU; a head on all features, because with global averages no"
        " attack came above 9 dB at this width (one victim of another seed, pre-activation, 28 x 28)",
    ]
    work = "ResNet, one block of width 64, training mode, B = 4, Fashion-MNIST at 14 x 14, seed 0"
    return finish(Result("attack_norm_order", work, found.rows(), notes, {"psnr": found.psnrs}))


if __name__ == "__main__":
    sys.exit(main())
