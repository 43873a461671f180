"""The work that every side does: networks, data, and how much of each.

Knows torch alone, so that the peers' environment can import it. The data are random numbers of the
right shape: what a step costs does not depend on what is in a picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mlp() -> nn.Module:
    """64-64-10: 4,810 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """The network of pfl-research's CIFAR-10 speed benchmark: 1,626,442 parameters.

    https://github.com/apple/pfl-research, benchmarks/image_classification: two unpadded 3x3
    convolutions, a pool, dropout, a hidden layer of 128, dropout, ten logits.
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 32, 3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 64, 3),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        drop1=nn.Dropout(0.25),
        flatten=nn.Flatten(),
        hidden=nn.Linear(64 * 14 * 14, 128),
        relu3=nn.ReLU(),
        drop2=nn.Dropout(0.5),
        head=nn.Linear(128, 10),
    )
    return nn.Sequential(layers)


@dataclass(frozen=True)
class Work:
    """Federated averaging of one network: `cohort` of `clients` per round.

    Attributes:
        records: examples per client, of `shape` (C, H, W).
        batch: examples per step, 0 for all of a client's.
        epochs: passes over the client's examples per round.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    clients: int
    cohort: int
    records: int
    batch: int
    epochs: int
    learning_rate: float = 0.1

    def data(self) -> tuple[Tensor, Tensor]:
        """(clients * records, C, H, W) in [0, 1] and their labels; a client's examples in a row."""
        generator = torch.Generator().manual_seed(0)
        count = self.clients * self.records
        images = torch.rand(count, *self.shape, generator=generator)
        return images, torch.randint(10, (count,), generator=generator)


WORKS = {
    "mlp": Work(mlp, (1, 8, 8), clients=100, cohort=50, records=16, batch=0, epochs=5),
    "cnn": Work(cnn, (3, 32, 32), clients=100, cohort=50, records=50, batch=10, epochs=1),
}
