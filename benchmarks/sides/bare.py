"""A bare PyTorch loop: one client after the other from the same weights, nothing averaged.

The least that sequential training can cost; no messages, no server. `python -m benchmarks.sides.bare
WORK`; answers `N` with N rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work


def loop(work: Work) -> Callable[[int], None]:
    """A function that trains so many rounds of cohorts."""
    images, labels = work.data()
    net = work.network().train()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    batch = work.batch or work.records

    def client(number: int) -> None:
        first = number * work.records
        net.load_state_dict(weights)
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
        for _ in range(work.epochs):
            for start in range(first, first + work.records, batch):
                optimizer.zero_grad()
                outputs = net(images[start : start + batch])
                nn.functional.cross_entropy(outputs, labels[start : start + batch]).backward()
                optimizer.step()

    def rounds(count: int) -> None:
        for number in range(count * work.cohort):
            client(number % work.clients)

    return rounds


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(loop(WORKS[sys.argv[1]]), warm_up=1)
