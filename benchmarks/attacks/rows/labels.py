"""Label counts of one step at initialisation, for several networks and data sets; B up to 32."""

from __future__ import annotations

import functools
import sys

import torch
from fedlab_attacks.label_recovery import LabelRecovery

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import ThreatModel
from fedlab.audit.metrics import labels_recovered
from fedlab.clients import ClientConfig
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.lenet import lenet
from fedlab.tasks.models.mlp import mlp

SEED, VICTIMS = 0, 16
DATA = ("digits", "fashion-mnist")
NETWORKS = {"mlp": mlp, "lenet": lenet, "convnet": convnet}


def main() -> int:
    rows = []
    measurements: dict[str, float] = {}
    for batch in (1, 4, 8, 16, 32):
        shares = {f"{title}, {name}": share(title, name, batch) for name in DATA for title in NETWORKS}
        measurements |= {f"{what}, B = {batch}": value for what, value in shares.items()}
        worst = min(shares, key=shares.__getitem__)
        where = f" ({worst})" if shares[worst] < 100 else ""
        rows.append(Row(f"B = {batch}: labels right, worst{where}", shares[worst], "%", at_least=95.0))
    work = (
        f"labels as counts, {VICTIMS} batches each of {' and '.join(DATA)}, {', '.join(NETWORKS)} at"
        f" initialisation, one step in training mode, seed {SEED}"
    )
    return finish(Result("attack_labels", work, rows, measurements=measurements))


def share(title: str, name: str, batch: int) -> float:
    """Per cent of the labels that are right, over all batches of one network and data set."""
    data, _ = dataset(name)
    network = functools.partial(NETWORKS[title], data.shape, data.classes)
    config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
    scene = observe(network, data, config, victims=VICTIMS, records=batch, seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    answers = LabelRecovery()(scene.observations, ThreatModel(), scene.victim, generator=generator)
    right = sum(
        labels_recovered(answer.labels, truth)[0]
        for answer, truth in zip(answers, scene.labels, strict=True)
        if answer.labels is not None
    )
    return 100 * right / (VICTIMS * batch)


if __name__ == "__main__":
    sys.exit(main())
