"""Convolutions below a biased linear layer, one record, dropout behind it: peeled off layer by layer."""

from __future__ import annotations

import functools
import itertools
import sys
import time

import torch
from fedlab_attacks.exact.layer_peel import LayerPeel
from torch import nn

from benchmarks.attacks.scene import Scene, dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Reconstruction, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.lenet import lenet

SEED, VICTIMS, FEWER = 0, 16, 3


def stack(classes: int, before: float = 0.0) -> nn.Module:
    """Two strided convolutions with more outputs than inputs, two linear layers with dropout between."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 72, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Dropout(before),
        nn.Linear(72 * 8 * 8, 64),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.5),
        nn.Linear(64, classes),
    )


def attacked(scene: Scene) -> tuple[list[Reconstruction], list[float]]:
    """The answers, and the seconds that each took."""
    ends = [time.perf_counter()]
    answers = LayerPeel()(
        scene.observations,
        ThreatModel(),
        scene.victim,
        generator=torch.Generator().manual_seed(SEED),
        report=lambda done, total: ends.append(time.perf_counter()),
    )
    return answers, [after - before for before, after in itertools.pairwise(ends)]


def main() -> int:
    colour, grey = dataset("cifar-samples")[0], dataset("fashion-mnist")[0]
    config = ClientConfig(batch_size=1, local_steps=1, learning_rate=0.1)
    rows = []
    scene = observe(
        functools.partial(stack, colour.classes), colour, config, victims=VICTIMS, records=1, seed=SEED
    )
    answers, seconds = attacked(scene)
    median = scene.median(answers)
    rows.append(Row("PSNR, median of 16 victims", median, "dB", at_least=90.0))
    rows.append(Row("of which certified unique", sum(one.certificates[0].proves for one in answers)))
    rows.append(Row("time per image, factors known", sorted(seconds[1:])[len(seconds) // 2], "s"))
    rows.append(Row("time to factorise, once for all victims of a round", seconds[0] - min(seconds[1:]), "s"))
    others = {
        "the same, dropout 0.25 before the linear layer too": (
            functools.partial(stack, colour.classes, 0.25),
            colour,
        ),
        "LeNet, sigmoid, width 12, 28x28": (functools.partial(lenet, grey.shape, grey.classes), grey),
        "LeNet, sigmoid, width 12, 32x32x3": (functools.partial(lenet, colour.shape, colour.classes), colour),
    }
    for what, (network, data) in others.items():
        scene = observe(network, data, config, victims=FEWER, records=1, seed=SEED)
        answers, seconds = attacked(scene)
        rows.append(Row(f"{what}: PSNR, median of {FEWER}", scene.median(answers), "dB"))
        rows.append(Row(f"{what}: time per image", sorted(seconds)[FEWER // 2], "s"))
    work = (
        "conv 5x5/2 3-16, 5x5/2 16-72, LeakyReLU, FC 4608-64-10, dropout 0.5 behind the first, training mode,"
        " B = 1, CIFAR samples, weight differences at learning rate 0.1, seed 0"
    )
    notes = [
        "LeNet needs the gradient constraints too: its second convolution has 768 outputs for 3072 inputs."
    ]
    return finish(Result("attack_conv_peel", work, rows, notes))


if __name__ == "__main__":
    sys.exit(main())
