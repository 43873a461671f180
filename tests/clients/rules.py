"""Every local rule, and small cohorts to try them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedlab import seeds
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.app import CohortApp
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import slotted
from fedlab.clients.rules.adversarial import AdversarialTraining
from fedlab.clients.rules.feddyn import FedDyn
from fedlab.clients.rules.fednova import FedNova
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.mime import MimeLite
from fedlab.clients.rules.momentum import FedAvgM, FedAvgMVR
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.rules.scaffold_momentum import ScaffoldM, ScaffoldMVR
from fedlab.runtime import Executor, SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.strategies import SGD, Composition, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.strategies.rounds import rounds
from fedlab.tasks import Dataset, FunctionalModel, State, Task, cross_entropy

RULES: dict[str, Callable[[], LocalRule]] = {
    "fedprox": lambda: FedProx(mu=0.5),
    "scaffold-I": lambda: Scaffold(option="I"),
    "scaffold-II": Scaffold,
    "fedavg-m": lambda: FedAvgM(beta=0.3),
    "fedavg-m-vr": lambda: FedAvgMVR(beta=0.3),
    "scaffold-m": lambda: ScaffoldM(beta=0.3),
    "scaffold-m-vr": lambda: ScaffoldMVR(beta=0.3),
    "fednova": FedNova,
    "fednova-prox": lambda: FedNova(mu=0.5),
    "feddyn": lambda: FedDyn(alpha=0.5),
    "mime-lite": lambda: MimeLite(beta=0.5),
    "fal": lambda: AdversarialTraining(rho=0.1, steps=2),
}


def noisy(state: State, generator: torch.Generator, scale: float = 0.05) -> State:
    return {n: v + scale * torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in state.items()}


def cohort(
    data: Dataset,
    network: Callable[[], nn.Module],
    rule: LocalRule,
    config: ClientConfig,
    sizes: Sequence[int],
    stacked: bool = True,
) -> tuple[LocalTraining, list[ClientJob]]:
    """Clients in the middle of a run: each remembers something, and the server tells them something."""
    model = FunctionalModel(network(), data.shape)
    training = LocalTraining(model, cross_entropy, data, rule, config, seed=3, stacked=stacked)
    start = model.state()
    parameters = model.parameters_of(start)
    generator = seeds.torch_generator(7, "test")
    server: State = {}
    for name in rule.server.sends:
        like = parameters if name == "previous" else {n: torch.zeros_like(v) for n, v in parameters.items()}
        server |= slotted(name, noisy(like, generator))
    starts = np.random.default_rng(1).integers(0, len(data) - max(sizes), len(sizes))
    jobs = [
        ClientJob(
            client=c,
            round=2,
            state=start,
            memory=noisy(rule.memory(parameters), generator),
            records=np.arange(starts[c], starts[c] + n),
            plan=plan_batches(n, config, 3, 2, c),
            server=server,
        )
        for c, n in enumerate(sizes)
    ]
    return training, jobs


def trained(
    rule: LocalRule,
    task: Task,
    config: ClientConfig,
    sizes: Sequence[int],
    *,
    number: int = 2,
    executor: Executor | None = None,
    stacked: bool = True,
) -> dict[str, Tensor]:
    """The model after some rounds of all clients, in chunks of two; and what the rule's server remembers."""
    ends = np.cumsum([0, *sizes])
    owners = [np.arange(ends[c], ends[c + 1]) for c in range(len(sizes))]
    app = CohortApp(task, owners, rule, config, seed=1, stacked=stacked)
    grid = SimulationGrid(app, len(sizes), executor, chunk=2)
    model = task.model(0)
    aggregator = as_aggregator(weighted_mean)
    learner = Learner(aggregator, SGD(), model.parameter_names, 3, server=rule.server, config=config)
    strategy = Composition(learner, Synchronous(len(sizes), seed=3))
    done = list(rounds(strategy, grid, array_record(model.state()), last=number))
    assert all(one.updated for one in done), strategy.why_skipped
    return tensors(done[-1].arrays) | {f"server/{n}": v for n, v in (learner.server_state or {}).items()}


def same(one: State, other: State) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def apart(one: State, other: State) -> float:
    """L2 norm of the difference."""
    assert one.keys() == other.keys()
    return float(torch.cat([(one[n].double() - other[n].double()).flatten() for n in one]).norm())
