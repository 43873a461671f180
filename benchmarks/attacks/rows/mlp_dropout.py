"""A biased first layer, one record, dropout 0.75: read off exactly."""

from __future__ import annotations

import functools
import sys

import torch
from fedlab_attacks.exact.linear_layer import LinearLayer

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS = 0, 16


def main() -> int:
    data, _ = dataset("fashion-mnist")
    network = functools.partial(mlp, data.shape, data.classes, width=256, depth=2, dropout=0.75)
    config = ClientConfig(batch_size=1, local_steps=1, learning_rate=0.1)
    scene = observe(network, data, config, victims=VICTIMS, records=1, seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    answers = LinearLayer()(scene.observations, ThreatModel(), scene.victim, generator=generator)
    rows = [Row("PSNR, median of 16 victims", scene.median(answers), "dB", at_least=100.0)]
    work = "MLP 784-256-256-10, dropout 0.75, training mode, B = 1, Fashion-MNIST, weight differences, seed 0"
    return finish(Result("attack_mlp_dropout", work, rows))


if __name__ == "__main__":
    sys.exit(main())
