"""Does it pay to stack clients? Client steps, stacked with `vmap`, against one after the other.

Prints a table of network by number of clients: how many times faster a step of one client gets.
`fedlab.clients.stacking` draws its rule from it. Not part of `make bench-runtime`: a table, no bar.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from benchmarks.work import cnn, mlp
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.lenet import lenet
from fedlab.tasks.models.resnet import resnet

COHORTS = (2, 4, 8, 16, 25, 50)
REPEATS = 5
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 64-64-10, batch 16": (mlp, (1, 8, 8), 16),
    "MLP 784-200-10, batch 10": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10)),
        (1, 28, 28),
        10,
    ),
    "LeNet 28x28, batch 10": (lambda: lenet((1, 28, 28), 10), (1, 28, 28), 10),
    "ConvNet 32x32, batch 10": (lambda: convnet((3, 32, 32), 10), (3, 32, 32), 10),
    "ResNet 32x32, batch 10": (lambda: resnet((3, 32, 32), 10, norm="group"), (3, 32, 32), 10),
    "pfl's CNN, batch 10": (cnn, (3, 32, 32), 10),
}


def median_seconds(step: Callable[[], Any]) -> float:
    """Processor time of one call."""
    step()
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return statistics.median(found)


def sequential(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds per client step of a plain training loop."""
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return median_seconds(step)


def stacked(model: FunctionalModel, x: Tensor, y: Tensor, clients: int) -> float:
    """Seconds per client step of `clients` stacked clients."""
    masks = model.draw_masks(len(x), torch.Generator())

    def many(state: State) -> State:
        return {name: value.expand(clients, *value.shape).clone() for name, value in state.items()}

    state = model.state()
    parameters, buffers = many(model.parameters_of(state)), many(model.buffers_of(state))

    def loss(values: State, rest: State, x: Tensor, y: Tensor, masks: State) -> Tensor:
        outputs, _ = model({**values, **rest}, x, training=True, masks=masks)
        return nn.functional.cross_entropy(outputs, y)

    def one(values: State, rest: State, x: Tensor, y: Tensor, masks: State) -> State:
        slope = grad(loss)(values, rest, x, y, masks)
        return {name: values[name] - 0.01 * slope[name] for name in values}

    batch = (many({"x": x})["x"], many({"y": y})["y"], many(masks))
    return median_seconds(lambda: vmap(one)(parameters, buffers, *batch)) / clients


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'times faster, by clients stacked':34}" + "".join(f"{clients:8d}" for clients in COHORTS))
    for name, (network, shape, batch) in NETWORKS.items():
        net = network()
        x, y = torch.rand(batch, *shape), torch.randint(10, (batch,))
        base, model = sequential(net, x, y), FunctionalModel(net, shape)
        cells = (f"{base / stacked(model, x, y, clients):8.2f}" for clients in COHORTS)
        print(f"{name:34}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
