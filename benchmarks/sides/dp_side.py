"""DP-SGD in 20 clients: stacked by fedlab, or one after the other by Opacus.

    python -m benchmarks.sides.dp_side fedlab BATCH    N: N rounds of the cohort
    python -m benchmarks.sides.dp_side opacus BATCH    the same clients, batches and steps

Local training alone, no messages on either side. Opacus is spared what it can be: one `GradSampleModule` for
all clients, whose weights are put back, and batches that are cut from a tensor instead of a data loader's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from benchmarks.sides.serve import serve
from benchmarks.work import mlp
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy

CLIENTS, STEPS, PER_EPOCH = 20, 20, 6
SIGMA, CLIP, RATE, SEED = 1.0, 1.0, 0.1, 0
WARM_UP = 10
"""Rounds after which fedlab has recorded the shapes that come up often."""


def records(batch: int) -> int:
    """Of each client."""
    return PER_EPOCH * batch


def data_for(batch: int) -> Dataset:
    generator = np.random.default_rng(SEED)
    count = CLIENTS * records(batch)
    images = generator.random((count, 1, 8, 8), dtype=np.float32)
    return Dataset("random", images, generator.integers(0, 10, count), 10, source="random", synthetic=True)


def config_for(batch: int) -> ClientConfig:
    return ClientConfig(batch_size=batch, local_steps=STEPS, learning_rate=RATE, sampling="poisson")


def ours(batch: int) -> Callable[[int], None]:
    """A function that trains so many rounds of the stacked cohort."""
    data, config, size = data_for(batch), config_for(batch), records(batch)
    defense = DPSGD(noise_multiplier=SIGMA, max_grad_norm=CLIP)
    rule = defense.local_rule(LocalRule(), Federation((size,) * CLIENTS, 1, config))
    model = FunctionalModel(mlp(), data.shape)
    training = LocalTraining(model, cross_entropy, data, rule, config, SEED, chunk=CLIENTS)
    state = model.state()

    def rounds(count: int) -> None:
        for number in range(count):
            training(
                [
                    ClientJob(
                        client,
                        number,
                        state,
                        {},
                        np.arange(client * size, (client + 1) * size),
                        plan_batches(size, config, SEED, number, client),
                    )
                    for client in range(CLIENTS)
                ]
            )

    return rounds


def theirs(batch: int) -> Callable[[int], None]:
    """The same, client by client."""
    data, config, size = data_for(batch), config_for(batch), records(batch)
    images, labels = torch.from_numpy(data.x), torch.from_numpy(data.y)
    net = mlp()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    sampled = GradSampleModule(net)

    def client(number: int, which: int) -> None:
        net.load_state_dict(start)
        optimizer = DPOptimizer(
            torch.optim.SGD(sampled.parameters(), lr=RATE),
            noise_multiplier=SIGMA,
            max_grad_norm=CLIP,
            expected_batch_size=batch,
        )
        for picks in plan_batches(size, config, SEED, number, which):
            ids = torch.from_numpy(picks + which * size)
            optimizer.zero_grad()
            nn.functional.cross_entropy(sampled(images[ids]), labels[ids]).backward()
            optimizer.step()

    def rounds(count: int) -> None:
        for number in range(count):
            for which in range(CLIENTS):
                client(number, which)

    return rounds


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Opacus' hooks warn of inputs without gradients
    torch.set_num_threads(1)
    side, size = sys.argv[1], int(sys.argv[2])
    serve(ours(size) if side == "fedlab" else theirs(size), warm_up=WARM_UP if side == "fedlab" else 1)
