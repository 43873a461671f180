"""The full row of `norm_order`: ResNet-18 of twice the width, pre- and post-activation, B = 16.

`python -m benchmarks.attacks.full_map`; hours on a GPU. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.attacks.norm_study import Study, halved
from benchmarks.attacks.scene import dataset
from benchmarks.harness import RESULTS, Result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="a data set's name")
    parser.add_argument("--half", action="store_true", help="at half the resolution")
    parser.add_argument("--batch", type=int, default=16, help="records per victim")
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--proxies", type=int, default=1, help="batches of the attacker's own")
    parser.add_argument("--depth", type=int, default=2, help="blocks per stage")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--width", type=int, default=128, help="channels of the first stage")
    parser.add_argument("--head", choices=("average", "flatten"), default="average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for attack_norm_order_full.json")
    chosen = parser.parse_args(arguments)
    if chosen.victims < 2:
        parser.error(f"--victims {chosen.victims}; expected at least 2, whose differences have an interval")
    data, _ = dataset(chosen.data)
    network = {name: getattr(chosen, name) for name in ("depth", "stages", "width", "head")}
    study = Study(
        data=halved(data) if chosen.half else data,
        network=network,
        batch=chosen.batch,
        victims=chosen.victims,
        iterations=chosen.iterations,
        seed=chosen.seed,
        proxies=chosen.proxies,
        device=chosen.device,
    )
    found = study.run()
    result = Result(
        "attack_norm_order_full", f"ResNet, training mode, {study}", found.rows(), [found.power()]
    )
    result.measurements = {"psnr": found.psnrs}
    result.write(chosen.output)
    print(result.table())
    return 0 if result.met else 1


if __name__ == "__main__":
    sys.exit(main())
