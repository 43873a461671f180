"""The personal head stays with its client, and comes back each round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlab import plugins, seeds
from fedlab.clients import ClientConfig, plan_batches
from fedlab.clients.app import CohortApp
from fedlab.clients.batches import ClientJob
from fedlab.clients.rules.personal import PersonalHead
from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.strategies import SGD, Composition, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.strategies.rounds import rounds
from fedlab.tasks import Dataset, State, Task
from tests.conftest import dropout_mlp


@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet", "resnet", "vit"])
def test_the_personal_part_is_the_last_linear_layer(name: str) -> None:
    net = plugins.build("models", name, (1, 16, 16), 10)
    parameters = {n: value.detach() for n, value in net.named_parameters()}
    assert set(PersonalHead().personal(parameters, torch.Generator())) == {"head.weight", "head.bias"}


def test_a_network_without_a_linear_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match=r"last parameters are conv\.weight"):
        PersonalHead().personal({"conv.weight": torch.zeros(2, 1, 3, 3)}, torch.Generator())


def test_two_rounds_are_those_of_clients_that_keep_their_heads(small_data: Dataset) -> None:
    """By hand: each client trains (base, its own head); the server averages bases; heads go on."""
    task = Task(train=small_data, test=small_data, network=dropout_mlp)
    owners = [np.arange(0, 8), np.arange(8, 20), np.arange(20, 25)]
    config = ClientConfig(mode="eval", batch_size=4, local_epochs=1, learning_rate=0.2)
    app = CohortApp(task, owners, PersonalHead(), config, seed=1)
    state = task.model(seeds.derive(1, "init")).state()
    kept = PersonalHead().personal(state, torch.Generator())
    base = [name for name in state if name not in kept]
    grid = SimulationGrid(app, 3)
    strategy = Composition(Learner(as_aggregator(weighted_mean), SGD(), base, 1), Synchronous(3, 1))
    start = array_record({name: state[name] for name in base})
    found = [tensors(round.arrays) for round in rounds(strategy, grid, start, last=2)]

    plain = CohortApp(task, owners, PersonalHead(), config, seed=1).training
    heads: list[State] = [kept] * 3
    shared: State = {name: state[name] for name in base}
    for number in (1, 2):
        jobs = [
            ClientJob(c, number, shared | heads[c], {}, ids, plan_batches(len(ids), config, 1, number, c))
            for c, ids in enumerate(owners)
        ]
        ended = [result.state for result in plain(jobs)]
        heads = [{name: one[name] for name in kept} for one in ended]
        share = [len(ids) / 25 for ids in owners]
        shared = {name: sum(p * one[name] for p, one in zip(share, ended, strict=True)) for name in base}  # type: ignore[misc]
        assert set(found[number - 1]) == set(base)
        for name in base:
            torch.testing.assert_close(found[number - 1][name], shared[name], rtol=1e-5, atol=1e-6)
    for client, head in enumerate(heads):
        own = tensors(grid._contexts[client].state["fedlab.personal"])
        for name, value in head.items():
            torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-6)
    name = next(iter(kept))
    assert not torch.equal(heads[0][name], heads[1][name])
