"""HyperFL: the image of one step on one record, without the embedding, the classifier and the label."""

from __future__ import annotations

import functools
import statistics
import sys
import time

import torch
from fedlab_attacks.exact.pullback import HypernetworkPullback
from torch import nn

from benchmarks.attacks.scene import Scene, dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Reconstruction, ThreatModel
from fedlab.clients import ClientConfig
from fedlab.clients.rules.hyperfl import HyperFL

SEED, VICTIMS = 0, 16
ITERATIONS = 500
RECORDS = 50
STILL = 1e-9
"""A learning rate of the classifier that leaves it where it is."""


def extractor(classes: int) -> nn.Module:
    """The paper's network for 28 x 28: two convolutions with pooling, 800-128, the private classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=1),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 128),
        nn.LeakyReLU(),
        nn.Linear(128, classes),
    )


def attacked(scene: Scene, iterations: int = ITERATIONS) -> list[Reconstruction]:
    """Answers to what the server sees; labels are not granted."""
    generator = torch.Generator().manual_seed(SEED)
    attack = HypernetworkPullback(iterations=iterations)
    return attack(scene.observations, ThreatModel(), scene.victim, generator=generator)


def main() -> int:
    data, _ = dataset("fashion-mnist")
    base = functools.partial(extractor, data.classes)
    still = HyperFL(head_learning_rate=STILL)
    config = ClientConfig(batch_size=1, local_epochs=2, learning_rate=0.02)
    scores, residuals = [], []
    began = time.perf_counter()
    for part in range(4):  # 60 MB an observation
        scene = observe(
            still.network(base), data, config, victims=VICTIMS // 4, records=1, seed=SEED + part, rule=still
        )
        answers = attacked(scene)
        scores += scene.psnrs(answers)
        residuals += [float(answer.details.get("beyond rank one", 1.0)) for answer in answers]
    seconds = (time.perf_counter() - began) / VICTIMS
    rows = [
        Row("one step, B = 1: PSNR, median of 16 victims", statistics.median(scores), "dB", at_least=20.0),
        Row("one step, B = 1: worst of 16", min(scores), "dB"),
        Row("one step, B = 1: best of 16", max(scores), "dB"),
        Row("one step: share of the heads' update beyond rank one, largest", max(residuals)),
        Row("time per image", seconds, "s"),
    ]
    rule = HyperFL()
    schedule = ClientConfig(batch_size=RECORDS, local_epochs=6, learning_rate=0.02)
    scene = observe(rule.network(base), data, schedule, victims=2, records=RECORDS, seed=SEED, rule=rule)
    answers = attacked(scene, 200)
    refused = [answer.refusal for answer in answers if answer.refusal]
    rows.append(Row("the paper's schedule, 50 records: refused, of 2 victims", len(refused)))
    if len(refused) < len(answers):
        rows.append(Row("the paper's schedule: PSNR, median of 100 images", scene.median(answers), "dB"))
    notes = [
        "One step: the classifier, which is not known to the attacker, stays as it was drawn; HyperFL's own"
        " step on it from the same single record would fit that record and leave next to no gradient.",
        "The paper's schedule: 1 epoch on the classifier, 5 on the hypernetwork, momentum 0.5, weight decay"
        " 5e-4, batch 50; here with 50 records a client, which makes 5 steps on the hypernetwork (the paper:"
        " 600 records, 60 steps). Nobody told the attacker the weight decay or the clipping in either row.",
    ]
    notes += [f"Refused: {reason}" for reason in dict.fromkeys(refused)]
    work = (
        "HyperFL, hypernetwork 64-128-heads, extractor conv 5x5 1-16, 5x5 16-32, max pooling, 800-128,"
        " LeakyReLU, Fashion-MNIST, learning rate 0.02, weight decay 5e-4, weight differences, seeds 0 to 3"
    )
    return finish(Result("attack_hyperfl", work, rows, notes))


if __name__ == "__main__":
    sys.exit(main())
