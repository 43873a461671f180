"""A whole batch through one ReLU layer, exactly: SPEAR on digits, B = 8; B = 4, 10 and 12 without a bar."""

from __future__ import annotations

import functools
import statistics
import sys
import time

import torch
from fedlab_attacks.exact.sparse_batch import SparseBatch

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.mlp import mlp

SEED, SAMPLES, EXACT = 0, 2**18, 60.0
"""Every image of a batch must reach `EXACT` dB."""


def main() -> int:
    data, _ = dataset("digits")
    network = functools.partial(mlp, data.shape, data.classes, width=200, depth=1, dropout=0.0)
    rows = []
    for batch, count in ((8, 32), (4, 16), (10, 8), (12, 4)):
        config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
        scene = observe(network, data, config, victims=count, records=batch, seed=SEED)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(SEED)
        answers = SparseBatch(samples=SAMPLES)(
            scene.observations, ThreatModel(), scene.victim, generator=generator
        )
        seconds = (time.perf_counter() - start) / count
        scores = scene.psnrs(answers)
        least = [min(scores[i : i + batch]) for i in range(0, len(scores), batch)]
        exact = sum(score >= EXACT for score in least) / count
        certified = [any(one.proves for one in answer.certificates) for answer in answers]
        wrong = sum(sure and score < EXACT for sure, score in zip(certified, least, strict=True))
        name = f"B = {batch}, {count} batches"
        rows += [
            Row(f"{name}: all images exact", 100 * exact, "%", at_least=95.0 if batch == 8 else None),
            Row(f"{name}: PSNR, median", statistics.median(scores), "dB"),
            Row(f"{name}: certified unique", 100 * sum(certified) / count, "%"),
            Row(f"{name}: certified, yet wrong", 100 * wrong / count, "%", at_most=0.0),
            Row(f"{name}: time for a batch", seconds, "s"),
        ]
    work = (
        f"MLP 64-200-10, ReLU, training mode, digits, weight differences at learning rate 0.1, seed {SEED};"
        f" exact: every image of the batch at {EXACT:.0f} dB or more; {SAMPLES:,} draws at most"
    )
    return finish(Result("attack_spear", work, rows))


if __name__ == "__main__":
    sys.exit(main())
