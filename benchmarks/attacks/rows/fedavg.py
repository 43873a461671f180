"""FedAvg updates: several epochs of several steps with momentum, in an order that nobody knows."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import torch
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from fedlab_attacks.recipes.local_steps import LocalSteps

from benchmarks.attacks.scene import Scene, dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Attack, Reconstruction, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS, BATCH, RECOVERED, SMOOTH = 0, 8, 4, 20.0, 1e-3
NAMES = ("digits", "fashion-mnist")
HARD = (5, 4)
ITERATIONS = {(1, 4): 200, (2, 2): 150, (5, 1): 150, HARD: 120}
"""By (epochs, steps per epoch): fewer where each is a simulation of many steps."""


def scene(name: str, epochs: int, steps: int) -> Scene:
    data, _ = dataset(name)
    network = functools.partial(mlp, data.shape, data.classes, width=128, depth=2)
    config = ClientConfig(batch_size=BATCH, local_epochs=epochs, learning_rate=0.01, momentum=0.9)
    return observe(network, data, config, victims=VICTIMS, records=steps * BATCH, seed=SEED)


def told(attack: Attack, seen: Scene) -> list[Reconstruction]:
    generator = torch.Generator().manual_seed(SEED)
    return attack(seen.observations, ThreatModel(), seen.victim, generator=generator)


def recovered(answers: Sequence[Reconstruction], seen: Scene) -> float:
    """Share of the true images that were found at 20 dB or better, in percent."""
    found = seen.psnrs(answers)
    return 100 * sum(one >= RECOVERED for one in found) / len(found)


def labels_right(answers: Sequence[Reconstruction], seen: Scene) -> float:
    """Share of the labels that were told, each counted once, in percent."""
    right = total = 0
    for answer, truth in zip(answers, seen.labels, strict=True):
        total += len(truth)
        if answer.labels is not None:
            counts = [labels.bincount(minlength=seen.victim.classes) for labels in (answer.labels, truth)]
            right += int(torch.minimum(*counts).sum())
    return 100 * right / total


def main() -> int:
    rows = []
    for (epochs, steps), iterations in ITERATIONS.items():
        attack = LocalSteps(iterations=iterations, total_variation=SMOOTH)
        one_step = InvertingGradients(iterations=iterations, total_variation=SMOOTH)
        for name in NAMES:
            seen = scene(name, epochs, steps)
            answers = told(attack, seen)
            what = f"E = {epochs}, k = {steps}, {name}"
            rows.append(Row(f"{what}: images of 20 dB", recovered(answers, seen), "%", at_least=45.0))
            rows.append(Row(f"{what}: PSNR, median", seen.median(answers), "dB"))
            rows.append(Row(f"{what}: labels right", labels_right(answers, seen), "%"))
            if (epochs, steps) == HARD:
                plain = recovered(told(one_step, seen), seen)
                rows.append(
                    Row(f"{what}: images of 20 dB, read as one step (inverting-gradients)", plain, "%")
                )
            print(*rows[-3:], sep="\n", file=sys.stderr, flush=True)
    work = (
        "local-steps on MLP n-128-128-10, B = 4, E epochs of k steps, momentum 0.9, learning rate 0.01,"
        " labels inferred, 8 victims of each data set, weight differences, seed 0"
    )
    return finish(Result("attack_fedavg", work, rows))


if __name__ == "__main__":
    sys.exit(main())
