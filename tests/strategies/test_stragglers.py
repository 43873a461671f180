"""Clients that do less than the others: who they are, how much they do, and that they really do it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import EPOCHS, CohortApp
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record
from fedlab.strategies import (
    SGD,
    Adam,
    Composition,
    Learner,
    ServerOptimizer,
    Stragglers,
    Synchronous,
    as_aggregator,
)
from fedlab.strategies.aggregators import mean, weighted_mean
from fedlab.tasks import Task

COHORT = list(range(2, 12))


@pytest.mark.parametrize(
    ("fraction", "whole"), [(0.0, 10), (0.04, 10), (0.06, 9), (0.5, 5), (0.9, 1), (1.0, 0)]
)
def test_so_many_do_all_their_epochs_and_the_others_fewer(fraction: float, whole: int) -> None:
    """round((1 - fraction) 10), as FedProx's own code has it: at .9, one client of ten does all 20 epochs."""
    for number in range(1, 30):
        work = Stragglers(fraction, 20, True, seed=0)(COHORT, number)
        assert list(work) == COHORT
        assert sum(epochs == 20 for epochs in work.values()) == whole
        assert all(1 <= epochs <= 20 for epochs in work.values())


def test_stragglers_do_one_to_e_minus_one_epochs_each_as_likely() -> None:
    """2000 rounds of 5 stragglers and E = 5: each of 1, 2, 3, 4 is done 2500 times, ± 5 sd of 43.3; each
    client straggles in half of the rounds, ± 5 sd of 22.4."""
    stragglers = Stragglers(0.5, 5, True, seed=3)
    rounds = [stragglers(COHORT, number) for number in range(2000)]
    done = Counter(epochs for work in rounds for epochs in work.values())
    assert done[5] == 10000 and set(done) == {1, 2, 3, 4, 5}
    assert all(abs(done[epochs] - 2500) < 217 for epochs in (1, 2, 3, 4))
    for node in COHORT:
        assert abs(sum(work[node] < 5 for work in rounds) - 1000) < 112


def test_without_partial_work_the_same_ones_are_left_out() -> None:
    for number in range(1, 20):
        work = Stragglers(0.7, 4, True, seed=1)(COHORT, number)
        rest = Stragglers(0.7, 4, False, seed=1)(COHORT, number)
        assert rest == {node: 4 for node in COHORT if work[node] == 4} and len(rest) == 3


def test_who_straggles_depends_on_the_seed_and_the_round_alone() -> None:
    stragglers = Stragglers(0.5, 4, True, seed=1)
    assert stragglers(COHORT, 7) == stragglers(COHORT, 7) != stragglers(COHORT, 8)
    assert stragglers(COHORT, 7) != Stragglers(0.5, 4, True, seed=2)(COHORT, 7)


@pytest.mark.parametrize(
    ("fraction", "epochs", "partial", "message"),
    [
        (-0.1, 4, True, "fraction = -0.1; expected a share of clients from 0 to 1"),
        (1.1, 4, True, "fraction = 1.1"),
        (float("nan"), 4, True, "fraction = nan"),
        (0.5, 1, True, "epochs = 1; expected at least 2"),
        (0.5, 0, False, "epochs = 0; expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused(fraction: float, epochs: int, partial: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Stragglers(fraction, epochs, partial, 0)


def asked(rule: LocalRule, optimizer: ServerOptimizer, aggregator: object, task: Task) -> list[list[Message]]:
    """The messages of three rounds."""
    model = task.model(0)
    strategy = Composition(
        Learner(as_aggregator(aggregator), optimizer, model.parameter_names, 5, server=rule.server),
        Synchronous(4, seed=5),
        stragglers=Stragglers(0.5, 4, True, seed=5),
    )
    grid = SimulationGrid(CohortApp(task, OWNERS, rule, CONFIG, seed=5), len(OWNERS))
    return [
        list(strategy.configure_train(number, array_record(model.state()), ConfigRecord(), grid))
        for number in (1, 2, 3)
    ]


OWNERS = [np.arange(c * 10, c * 10 + 10) for c in range(6)]
CONFIG = ClientConfig(batch_size=5, local_epochs=4)


def told(messages: list[Message]) -> dict[int, int]:
    return {m.metadata.dst_node_id: int(str(m.content["config"][EPOCHS])) for m in messages}


def test_every_algorithm_meets_the_same_stragglers(small_task: Task) -> None:
    met = [
        [told(messages) for messages in asked(rule, optimizer, aggregator, small_task)]
        for rule, optimizer, aggregator in (
            (LocalRule(), SGD(), weighted_mean),
            (FedProx(mu=1.0), SGD(), mean),
            (Scaffold(), Adam(), mean),
        )
    ]
    assert met[0] == met[1] == met[2]
    assert all(sorted(work.values())[2:] == [4, 4] for work in met[0])


def test_the_clients_really_take_fewer_steps(small_task: Task) -> None:
    """Ten records in batches of five: two steps an epoch. What comes of it is what a client sends whose own
    configuration says so many epochs."""
    rule = LocalRule()
    grid = SimulationGrid(CohortApp(small_task, OWNERS, rule, CONFIG, seed=5), len(OWNERS))
    messages = asked(rule, SGD(), mean, small_task)[0]
    replies = grid.send_and_receive(messages)
    steps = {r.metadata.src_node_id: r.content["metrics"]["steps"] for r in replies}
    assert steps == {node: 2 * epochs for node, epochs in told(messages).items()}
    assert min(steps.values()) < 8 == max(steps.values())
    arrays = ArrayRecord(small_task.model(0).state())
    for reply in replies:
        node = reply.metadata.src_node_id
        epochs = int(steps[node]) // 2
        config = ClientConfig(batch_size=5, local_epochs=epochs)
        alone = SimulationGrid(CohortApp(small_task, OWNERS, rule, config, seed=5), len(OWNERS))
        content = messages[0].content.copy()
        content["arrays"], content["config"] = arrays, ConfigRecord({"server-round": 1})
        (same,) = alone.send_and_receive([Message(content, dst_node_id=node, message_type="train")])
        for name, array in same.content["arrays"].items():
            assert np.allclose(array.numpy(), reply.content["arrays"][name].numpy(), rtol=1e-4, atol=1e-6)
