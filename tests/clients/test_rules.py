"""Every local rule on small networks: stacked, one by one, recorded, through a strategy; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.clients.rules import WrappedRule
from fedlab.clients.rules.adversarial import AdversarialTraining
from fedlab.clients.rules.feddyn import FedDyn
from fedlab.clients.rules.fednova import FedNova
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.mime import MimeLite
from fedlab.clients.rules.momentum import FedAvgM, FedAvgMVR
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.rules.scaffold_momentum import ScaffoldM, ScaffoldMVR
from fedlab.errors import FedlabError, UsageError
from fedlab.tasks import Dataset, Task
from tests.clients.rules import RULES, apart, cohort, same, trained
from tests.conftest import batch_norm_mlp, dropout_mlp

EPOCHS = ClientConfig(batch_size=4, local_epochs=2, momentum=0.9, weight_decay=0.01)
SIZES = [5, 12, 9, 20, 7]
every_rule = pytest.mark.parametrize("name", RULES)


def config_for(name: str, config: ClientConfig = EPOCHS) -> ClientConfig:
    return replace(config, momentum=0.0) if name == "fednova-prox" else config


@every_rule
@pytest.mark.parametrize("sizes", [[3, 20], [20, 3, 16, 4, 4, 4, 5, 2]])
def test_any_stack_gives_each_client_the_same_bits(small_data: Dataset, name: str, sizes: list[int]) -> None:
    """Clients of unequal size, that idle and leave the stack, against each in a stack of its own.

    Where a pass over all records is stacked too, they hold equally many: padding it rounds otherwise.
    """
    config, rule = config_for(name, ClientConfig(batch_size=2, local_epochs=2, momentum=0.5)), RULES[name]()
    sizes = [max(sizes)] * len(sizes) if rule.full_gradient else sizes
    training, jobs = cohort(small_data, dropout_mlp, rule, config, sizes)
    together = training(jobs)
    for job, found in zip(jobs, together, strict=True):
        alone = training([job])[0]
        assert same(alone.state, found.state) and alone.loss == found.loss
        assert same(alone.memory, found.memory) and same(alone.uplink, found.uplink)


@every_rule
@pytest.mark.parametrize("network", [dropout_mlp, batch_norm_mlp])
def test_stacked_is_one_by_one(small_data: Dataset, name: str, network: Callable[[], nn.Module]) -> None:
    """To ten digits in float64: state, memory and what is sent."""
    rule, config = RULES[name](), config_for(name)
    training, jobs = cohort(small_data, lambda: network().double(), rule, config, SIZES)
    single, _ = cohort(small_data, lambda: network().double(), rule, config, SIZES, stacked=False)
    for job, together in zip(jobs, training(jobs), strict=True):
        alone = single([replace(job, state=jobs[0].state)])[0]
        assert alone.loss == pytest.approx(together.loss, rel=1e-10)
        assert apart(alone.state, together.state) <= 1e-10 * apart(alone.state, job.state)
        for one, other in ((alone.memory, together.memory), (alone.uplink, together.uplink)):
            assert set(one) == set(other)
            if one:
                assert apart(one, other) <= 1e-10 * apart(one, {n: 0.0 * v for n, v in one.items()})


@every_rule
def test_stacked_is_one_by_one_in_float32(small_data: Dataset, name: str) -> None:
    rule, config = RULES[name](), config_for(name)
    training, jobs = cohort(small_data, dropout_mlp, rule, config, SIZES)
    single, _ = cohort(small_data, dropout_mlp, rule, config, SIZES, stacked=False)
    for job, together in zip(jobs, training(jobs), strict=True):
        alone = single([job])[0]
        assert apart(alone.state, together.state) <= 1e-5 * apart(alone.state, job.state)


@every_rule
def test_recorded_steps_have_the_same_bits(small_data: Dataset, name: str) -> None:
    """24 steps of one shape: the last seven are replayed; against a loop that records nothing."""
    config = config_for(name, ClientConfig(batch_size=2, local_steps=24, learning_rate=0.02))
    recorded, jobs = cohort(small_data, batch_norm_mlp, RULES[name](), config, [8, 8, 8])
    plain, _ = cohort(small_data, batch_norm_mlp, RULES[name](), config, [8, 8, 8])
    plain._begin, plain._finish = plain._begin.function, plain._finish.function  # type: ignore[assignment]
    plain._directions = plain._directions.function  # type: ignore[assignment]
    for one, other in zip(recorded(jobs), plain(jobs), strict=True):
        assert same(one.state, other.state) and same(one.memory, other.memory)
        assert same(one.uplink, other.uplink)
    assert recorded._directions._recordings


@every_rule
def test_a_run_of_unequal_clients_is_the_same_stacked_or_not(small_task: Task, name: str) -> None:
    """Three rounds through Grid, messages and strategy; the server's slots too."""
    task = replace(small_task, network=lambda: batch_norm_mlp().double())
    config = replace(config_for(name), learning_rate=0.02)
    stacked, alone = (
        trained(RULES[name](), task, config, SIZES, number=3, stacked=stacked) for stacked in (True, False)
    )
    begun = {n: v for n, v in task.model(0).state().items()}
    moved = apart({n: stacked[n] for n in begun}, begun)
    assert moved > 0.01 and apart(stacked, alone) <= 1e-9 * moved


IDENTICAL: dict[str, tuple[LocalRule, LocalRule]] = {
    "fedprox, mu = 0": (FedProx(mu=0.0), LocalRule()),
    "fedavg-m, beta = 1": (FedAvgM(beta=1.0), LocalRule()),
    "fedavg-m-vr, beta = 1": (FedAvgMVR(beta=1.0), LocalRule()),
    "fednova": (FedNova(), LocalRule()),
    "mime-lite, beta = 0": (MimeLite(beta=0.0), LocalRule()),
    "fal, P = 0": (AdversarialTraining(steps=0), LocalRule()),
    "scaffold-m, beta = 1": (ScaffoldM(beta=1.0), Scaffold()),
    "scaffold-m-vr, beta = 1": (ScaffoldMVR(beta=1.0), Scaffold()),
    "fednova, mu": (FedNova(mu=0.5), FedProx(mu=0.5)),
}


@pytest.mark.parametrize("name", IDENTICAL)
def test_at_its_neutral_setting_a_rule_is_the_plain_one_bit_for_bit(small_task: Task, name: str) -> None:
    """Clients of equal work, 7 of them because sevenths round; dropout, batch norm, momentum of the SGD."""
    task = replace(small_task, network=batch_norm_mlp)
    config = replace(EPOCHS, momentum=0.0 if "mu" in name else 0.9, learning_rate=0.02)
    one, other = (trained(rule, task, config, [12] * 7) for rule in IDENTICAL[name])
    assert all(torch.equal(one[n], other[n]) for n in task.model(0).state())


def test_fednova_with_equal_steps_is_fedavg_whatever_clients_hold(small_task: Task) -> None:
    config = ClientConfig(batch_size=4, local_steps=5, learning_rate=0.1, momentum=0.9)
    one, other = (trained(rule, small_task, config, [5, 12, 9, 20]) for rule in (FedNova(), LocalRule()))
    assert same(one, other)


@every_rule
def test_the_memory_of_another_algorithm_is_refused_by_name(small_data: Dataset, name: str) -> None:
    training, jobs = cohort(small_data, dropout_mlp, RULES[name](), config_for(name), [4, 4])
    foreign = replace(jobs[1], client=41, memory={"trust/1.weight": torch.zeros(12, 16)})
    with pytest.raises(FedlabError, match=r"client 41 remembers trust/1\.weight; the local rule \w+ expects"):
        training([jobs[0], foreign])


def test_fedavg_refuses_what_scaffold_remembers(small_data: Dataset) -> None:
    _, jobs = cohort(small_data, dropout_mlp, Scaffold(), EPOCHS, [4, 4])
    training, _ = cohort(small_data, dropout_mlp, LocalRule(), EPOCHS, [4, 4])
    with pytest.raises(FedlabError, match=r"remembers control/1\.bias, .* LocalRule expects nothing"):
        training(jobs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedProx(mu=-1.0), "mu = -1.0; expected a finite number >= 0"),
        (lambda: FedNova(mu=float("nan")), "mu = nan"),
        (lambda: Scaffold(option="III"), 'option = \'III\'; expected "I" or "II"'),
        (lambda: FedDyn(alpha=0.0), "alpha = 0.0; expected a finite number > 0"),
        (lambda: MimeLite(beta=1.0), "beta = 1.0; expected a number from 0 to below 1"),
        (lambda: AdversarialTraining(rho=1.5), "rho = 1.5; expected a number above 0"),
        (lambda: AdversarialTraining(alpha=-0.1), "alpha = -0.1"),
        (lambda: AdversarialTraining(steps=-1), "steps = -1"),
    ]
    + [
        (lambda rule=rule, beta=beta: rule(beta=beta), f"beta = {beta}; expected a number above 0, at most 1")
        for rule in (FedAvgM, FedAvgMVR, ScaffoldM, ScaffoldMVR)
        for beta in (0.0, 1.1, float("nan"))
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], LocalRule], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


class Passed(WrappedRule):
    """As a defense's rule would be."""


def test_fednova_refuses_what_it_has_no_formula_for_before_the_first_round(small_task: Task) -> None:
    owners = [np.arange(5)]
    for rule in (FedNova(mu=1.0), Passed(FedNova(mu=1.0))):
        with pytest.raises(UsageError, match=r"fednova with mu = 1\.0 and clients\.momentum = 0\.9"):
            CohortApp(small_task, owners, rule, ClientConfig(momentum=0.9), seed=1)
    with pytest.raises(UsageError, match="their product must be less than 1"):
        CohortApp(small_task, owners, FedNova(mu=10.0), ClientConfig(learning_rate=0.1), seed=1)
    CohortApp(small_task, owners, FedNova(), ClientConfig(momentum=0.9), seed=1)


def test_fedprox_refuses_a_term_under_which_every_step_leads_away(small_task: Task) -> None:
    """w - x <- (1 - ημ)(w - x): from ημ = 2 on it grows."""
    owners = [np.arange(5)]
    with pytest.raises(UsageError, match=r"fedprox with mu = 20\.0 .* less than 2"):
        CohortApp(small_task, owners, FedProx(mu=20.0), ClientConfig(learning_rate=0.1), seed=1)
    CohortApp(small_task, owners, FedProx(mu=19.9), ClientConfig(learning_rate=0.1), seed=1)
