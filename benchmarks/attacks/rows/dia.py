"""Dropout behind a first layer without bias: masks read off, searched for, or ignored.

D. Scheliga, P. Mäder and M. Seeland, "Dropout is NOT All You Need to Prevent Gradient Leakage", AAAI 2023,
https://arxiv.org/abs/2208.06163.
"""

from __future__ import annotations

import functools
import sys

import torch
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS, ITERATIONS = 0, 16, 1000
KNOWS = ThreatModel(labels=True)
ATTACKS = {
    "DIA, masks read off where they show": DropoutInversion(iterations=ITERATIONS),
    "DIA as published, masks searched for": DropoutInversion(iterations=ITERATIONS, read_masks=False),
    "inverting gradients, evaluation mode": InvertingGradients(iterations=ITERATIONS),
}
BARS = {"DIA, masks read off where they show": 30.0, "DIA as published, masks searched for": None}


def main() -> int:
    data, _ = dataset("digits")
    knobs = {"width": 256, "depth": 2, "dropout": 0.5, "first_bias": False}
    network = functools.partial(mlp, data.shape, data.classes, **knobs)
    rows, measurements = [], {}
    for batch in (1, 4):
        config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
        scene = observe(network, data, config, victims=VICTIMS, records=batch, seed=SEED)
        for name, attack in ATTACKS.items():
            print(f"  B = {batch}: {name}", file=sys.stderr, flush=True)
            generator = torch.Generator().manual_seed(SEED)
            answers = attack(scene.granted(), KNOWS, scene.victim, generator=generator)
            what = f"{name}, B = {batch}: PSNR, median of {VICTIMS * batch} images"
            median = scene.median(answers)
            if name in BARS:
                rows.append(Row(what, median, "dB", at_least=BARS[name]))
            else:
                rows.append(Row(what, median, "dB", at_most=13.0))
            measurements[f"{name}, B = {batch}"] = [round(value, 2) for value in scene.psnrs(answers)]
    work = "MLP 64-256-256-10, dropout 0.5, first layer without bias, training mode, digits, seed 0"
    notes = ["labels granted, as published; every dB of every image is in the JSON"]
    return finish(Result("attack_dia", work, rows, notes, measurements))


if __name__ == "__main__":
    sys.exit(main())
