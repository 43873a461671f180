"""Apple's pfl-research 0.6 in simulation: `SimulatedBackend`, `FederatedAveraging`, one process.

Set up as its own benchmarks are, without evaluation, metrics or privacy, with every user's data set
ready in memory: pfl at its fastest. `python -m benchmarks.sides.pfl_side WORK`; answers `N` with N
rounds. The first round of a run evaluates and is left out.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work


class Network(nn.Module):
    """The network with the two methods that pfl calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"count": float(len(x))}


class Clock(TrainingProcessCallback):
    """Notes when each round ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []

    def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        return False, Metrics()


def simulation(work: Work) -> Callable[[int], dict[str, float]]:
    """A function that trains so many rounds of cohorts."""
    images, labels = work.data()
    users = [
        PyTorchTensorDataset((images[start : start + work.records], labels[start : start + work.records]))
        for start in range(0, len(labels), work.records)
    ]
    order = itertools.cycle(range(work.clients))
    data = FederatedDataset(users.__getitem__, lambda: next(order))
    backend = SimulatedBackend(training_data=data, val_data=data)
    network = Network(work.network()).train()
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    training = NNTrainHyperParams(
        local_num_epochs=work.epochs,
        local_learning_rate=work.learning_rate,
        local_batch_size=work.batch or None,
    )

    def rounds(count: int) -> dict[str, float]:
        clock = Clock()
        params = NNAlgorithmParams(
            central_num_iterations=count + 1,
            evaluation_frequency=count + 2,
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        )
        FederatedAveraging().run(
            params, backend, model, training, callbacks=[clock], send_metrics_to_platform=False
        )
        return {"seconds": clock.ends[-1] - clock.ends[0], "cpu_seconds": clock.cpu[-1] - clock.cpu[0]}

    return rounds


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(simulation(WORKS[sys.argv[1]]), warm_up=1)
