"""Dropout, batch norm and two local steps at once: the combined attack beside those that read one of them."""

from __future__ import annotations

import functools
import statistics
import sys

import torch
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from fedlab_attacks.recipes.training_client import TrainingClient
from fedlab_attacks.recipes.training_mode import GIARunning

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Attack, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS, STEPS, BATCH, ITERATIONS = 0, 4, 2, 4, 400
ATTACKS: dict[str, Attack] = {
    "training-client": TrainingClient(iterations=ITERATIONS, restarts=1),
    "dropout-inversion": DropoutInversion(iterations=ITERATIONS),
    "gia-running": GIARunning(iterations=ITERATIONS),
    "inverting-gradients": InvertingGradients(iterations=ITERATIONS),
}


def main() -> int:
    data, _ = dataset("digits")
    network = functools.partial(mlp, data.shape, data.classes, width=128, depth=2, norm="batch", dropout=0.5)
    config = ClientConfig(batch_size=BATCH, local_epochs=1, learning_rate=0.01, momentum=0.9)
    scene = observe(network, data, config, victims=VICTIMS, records=STEPS * BATCH, seed=SEED)
    rows = []
    for name, attack in ATTACKS.items():
        generator = torch.Generator().manual_seed(SEED)
        threat = ThreatModel(labels=True)
        answers = attack(scene.granted(), threat, scene.victim, generator=generator)
        if all(answer.images is None for answer in answers):
            rows.append(Row(f"{name}: images answered with", 0.0))
            continue
        rows.append(Row(f"{name}: PSNR, median", statistics.median(scene.psnrs(answers)), "dB"))
        print(rows[-1], file=sys.stderr, flush=True)
    work = (
        "MLP 64-128-128-10 with batch norm and dropout 0.5, training mode, 1 epoch of 2 steps on 4 records,"
        " momentum 0.9, learning rate 0.01, digits, labels granted, 4 victims, seed 0"
    )
    notes = [
        "gia-running solves one step's statistics and refuses two; the others read the update as one step"
    ]
    return finish(Result("attack_combined", work, rows, notes))


if __name__ == "__main__":
    sys.exit(main())
