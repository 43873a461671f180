"""Fashion-MNIST under DP-SGD in 20 clients at (8, 1e-5) each: what is learned, and what attacks recover.

A whole run of fedlab: 20 IID clients of 3,000 images, ε composed over all rounds of each client, no
amplification from client sampling. Sixteen victims of the first round, whose model tells the most, are
attacked, and each again with a random update of equal norm in place of its own. A victim's figure is the
difference of both medians over its images; the bound is the order statistic that the median of such
differences exceeds with a probability of 5 % at most, whatever their distribution.

Settings were tuned on seeds 11 and 12, and are reported on seed 0.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import binom

import fedlab
from benchmarks.harness import Result, Row, finish

ROUNDS, VICTIMS = 200, 16
ATTACKS = ("linear-layer", "cascade", "inverting-gradients")
SCENARIO = f"""
schema = 1
name = "dp-fashion"
seed = 0

[task]
dataset = "fashion-mnist"
model = {{ name = "mlp", width = 32, depth = 1, activation = "tanh" }}

[clients]
count = 20
partition = "iid"
batch_size = 128
local_steps = 1
learning_rate = 3.0

[strategy]
name = "fedavg"
rounds = {ROUNDS}
cohort = 20
evaluate_every = 50

[runtime]
executor = "inline"

[audit]
rounds = [1]
victims = {VICTIMS}
adaptive = false

[[attacks]]
name = "linear-layer"

[[attacks]]
name = "cascade"
iterations = 20

[[attacks]]
name = "inverting-gradients"
iterations = 50

[[defenses]]
name = "dp-sgd"
epsilon = 8.0
delta = 1e-5
max_grad_norm = 1.0
"""


def upper_bound(values: list[float], confidence: float = 0.95) -> float:
    """Upper bound of the median: the least order statistic k with P(Bin(n, 1/2) >= k) below 5 %."""
    count = len(values)
    place = next(k for k in range(1, count + 2) if binom.sf(k - 1, count, 0.5) <= 1.0 - confidence)
    return sorted(values)[place - 1] if place <= count else float("inf")


def differences(found: Mapping[str, Any]) -> list[float]:
    """Median PSNR of each victim less that of its null, in dB, where the attack answered both."""
    pairs = zip(found["victims"], found["control"], strict=True)
    return [
        statistics.median(known(one)) - statistics.median(known(null))
        for one, null in pairs
        if known(one) and known(null)
    ]


def known(score: Mapping[str, Any]) -> list[float]:
    return [psnr for psnr in score["psnr"] if psnr is not None]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        scenario, out = Path(folder) / "dp-fashion.toml", Path(folder) / "run"
        scenario.write_text(SCENARIO)
        report = fedlab.run(scenario, out=out).data
        answers = {name: json.loads(next(out.glob(f"attacks/*/{name}.json")).read_text()) for name in ATTACKS}
        (told,) = [json.loads(path.read_text()) for path in out.glob("privacy/*-s0.json")]
    (proved,) = report["guarantees"]
    rows = [
        Row("accuracy", 100 * report["utility"][0]["accuracy"], "%", at_least=78),
        Row("largest ε of a client at δ = 1e-5, all rounds", proved["epsilon"], at_most=8),
        Row("noise multiplier", told["history"][0][0]),
    ]
    for name, found in answers.items():
        apart = differences(found)
        rows += [
            Row(f"{name} less its null, upper 95 % bound of the median", upper_bound(apart), "dB", at_most=1),
            Row(f"{name} less its null, median", statistics.median(apart), "dB"),
            Row(f"{name}: victims with an answer, and a null's", len(apart), at_least=VICTIMS),
        ]
    work = (
        "Fashion-MNIST, 20 IID clients of 3,000 images, DP-SGD at (8, 1e-5) per client over all rounds, MLP"
        f" 784-32-10 (tanh), Poisson batches of 128 expected, one step in each of {ROUNDS} rounds, learning"
        f" rate 3, C = 1, {VICTIMS} victims of the first round, seed 0"
    )
    measurements = {"differences": {name: differences(found) for name, found in answers.items()}}
    return finish(Result("defense_dp_fashion", work, rows, measurements=measurements))


if __name__ == "__main__":
    sys.exit(main())
