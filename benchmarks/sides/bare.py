"""A bare PyTorch loop: one client after the other from the same weights, nothing averaged.

The least that sequential training can cost; no messages, no server. `python -m benchmarks.sides.bare
WORK`; answers `N` with N rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work

State = dict[str, Tensor]


def client_of(work: Work, start: State) -> Callable[[int], State]:
    """A function that trains one client, by number, from `start`; returns the network's own tensors."""
    images, labels = work.data()
    net = work.network().train()
    batch = work.batch or work.records

    def train(number: int) -> State:
        first = number * work.records
        net.load_state_dict(start)
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
        for _ in range(work.epochs):
            for begin in range(first, first + work.records, batch):
                optimizer.zero_grad()
                outputs = net(images[begin : begin + batch])
                nn.functional.cross_entropy(outputs, labels[begin : begin + batch]).backward()
                optimizer.step()
        return net.state_dict()

    return train


def loop(work: Work) -> Callable[[int], None]:
    """A function that trains so many rounds of cohorts."""
    train = client_of(work, work.network().state_dict())

    def rounds(count: int) -> None:
        for number in range(count * work.cohort):
            train(number % work.clients)

    return rounds


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(loop(WORKS[sys.argv[1]]), warm_up=1)
