"""A malicious server's imprint block: the share of 64 records that come back, for 1,000 and 500 bins."""

from __future__ import annotations

import functools
import statistics
import sys

import numpy as np
import torch
from fedlab_attacks.exact.imprint import Imprint
from torch import nn

from benchmarks.attacks.scene import dataset, observe
from benchmarks.harness import Result, Row, finish
from fedlab.audit import Proxy, ThreatModel, Victim
from fedlab.clients import ClientConfig
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy
from fedlab.tasks.models.convnet import convnet

SEED, BATCHES, BATCH, HELD_OUT, EXACT = 0, 16, 64, 10_000, 40.0
"""An image counts as exact at `EXACT` dB; the paper reports 47 dB for its own."""


def sent(attack: Imprint, agreed: nn.Module, data: Dataset, proxy: Proxy | None) -> nn.Module:
    """The network and the parameters that the malicious server sends instead of `agreed`."""
    net = attack.network(lambda: agreed, data.shape)()
    victim = Victim(FunctionalModel(net, data.shape), cross_entropy, data.shape, data.classes, proxy=proxy)
    state = attack.parameters(victim.model.state(), victim, generator=torch.Generator().manual_seed(SEED))
    net.load_state_dict(state)
    return net


def main() -> int:
    train, test = dataset("fashion-mnist")
    held = np.arange(HELD_OUT)
    proxy = Proxy(test.images(held), test.labels(held))
    agreed = functools.partial(convnet, train.shape, train.classes)
    config = ClientConfig(batch_size=BATCH, local_steps=1, learning_rate=0.1)
    threat = ThreatModel(server="malicious", proxy_data=True)
    rows = []
    for bins, bar, granted in ((1000, 90.0, True), (500, 84.0, True), (1000, None, False)):
        attack = Imprint(bins=bins)

        def network(attack: Imprint = attack, granted: bool = granted) -> nn.Module:
            return sent(attack, agreed(), train, proxy if granted else None)

        scene = observe(network, train, config, victims=BATCHES, records=BATCH, seed=SEED)
        answers = attack(scene.observations, threat, scene.victim, generator=torch.Generator())
        scores = scene.psnrs(answers)
        exact = [score for score in scores if score >= EXACT]
        name = f"{bins} bins, {'quantiles of held-out images' if granted else 'Gaussian 0.4 ± 0.15'}"
        rows += [
            Row(f"{name}: images exact", 100 * len(exact) / len(scores), "%", at_least=bar),
            Row(f"{name}: PSNR of those, median", statistics.median(exact), "dB"),
        ]
    work = (
        f"convnet behind an imprint block, B = {BATCH}, {BATCHES} batches, Fashion-MNIST, training mode, one"
        f" step, weight differences, seed {SEED}; exact: {EXACT:.0f} dB or more; quantiles of {HELD_OUT:,}"
        " test images"
    )
    return finish(Result("attack_imprint", work, rows))


if __name__ == "__main__":
    sys.exit(main())
