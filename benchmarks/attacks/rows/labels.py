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
NETWORKS = {"mlp": mlp, "lenet": lenet, "convnet": convnet}


def main() -> int:
    rows = []
    for name in ("digits", "fashion-mnist"):
        data, _ = dataset(name)
        for title, make in NETWORKS.items():
            network = functools.partial(make, data.shape, data.classes)
            for batch in (1, 4, 8, 16, 32):
                config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
                scene = observe(network, data, config, victims=VICTIMS, records=batch, seed=SEED)
                generator = torch.Generator().manual_seed(SEED)
                answers = LabelRecovery()(
                    scene.observations, ThreatModel(), scene.victim, generator=generator
                )
                right = sum(
                    labels_recovered(answer.labels, truth)[0]
                    for answer, truth in zip(answers, scene.labels, strict=True)
                    if answer.labels is not None
                )
                share = 100 * right / (VICTIMS * batch)
                rows.append(Row(f"{title}, {name}, B = {batch}: labels right", share, "%", at_least=95.0))
    work = (
        f"labels as counts, {VICTIMS} batches each at initialisation, one step in training mode, seed {SEED}"
    )
    return finish(Result("attack_labels", work, rows))


if __name__ == "__main__":
    sys.exit(main())
