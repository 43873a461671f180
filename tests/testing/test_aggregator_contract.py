"""Contracts of aggregators, server optimizers and samplers: the built-in pass, planted bugs are named."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlab import plugins
from fedlab.errors import FedlabError
from fedlab.strategies import Updates, coordinatewise
from fedlab.testing import ContractError, check_aggregator, check_sampler, check_server_optimizer

REQUIRED = {"norm-bounding": {"max_norm": 1.0}, "centered-clipping": {"tau": 1.0}}


@pytest.mark.parametrize("name", plugins.names("aggregators"))
def test_fedlabs_own_aggregators_keep_the_contract(name: str) -> None:
    check_aggregator(plugins.build("aggregators", name, **REQUIRED.get(name, {})))


@pytest.mark.parametrize("name", plugins.names("server_optimizers"))
def test_fedlabs_own_server_optimizers_keep_the_contract(name: str) -> None:
    check_server_optimizer(plugins.build("server_optimizers", name))


@pytest.mark.parametrize("name", plugins.names("samplers"))
def test_fedlabs_own_samplers_keep_the_contract(name: str) -> None:
    check_sampler(plugins.build("samplers", name))


def test_a_contract_error_is_a_failed_assertion_and_an_error_of_fedlab() -> None:
    with pytest.raises(AssertionError, match=r"an aggregator must be a function .* got 3"):
        check_aggregator(3)
    assert issubclass(ContractError, FedlabError)


class Remembers:
    """An aggregator with a state, as an example of what may be."""

    def aggregate(self, updates: Updates, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        velocity = updates.deltas.mean(0) + 0.9 * state.get("velocity", 0.0)
        return velocity, {"velocity": velocity, "rounds": state.get("rounds", 0) + 1}


def shuffles(updates: Updates, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """The mean of a random half: its draw depends on the order of the clients, as it may."""
    order = torch.randperm(len(updates.deltas), generator=updates.generator)
    return updates.deltas[order[: len(order) // 2 + 1]].mean(0), state


class Object:
    """A function of updates and state, as an aggregator."""

    def __init__(self, function: Callable[..., Any], **attributes: Any) -> None:
        self.function = function
        self.__dict__ |= attributes

    def aggregate(self, updates: Updates, state: dict[str, Any]) -> Any:
        return self.function(updates, state)


@pytest.mark.parametrize("good", [Remembers, Remembers(), Object(shuffles)], ids=["class", "state", "draws"])
def test_memory_and_draws_are_allowed(good: object) -> None:
    check_aggregator(good)


class Counts:
    """Its memory is on the object, where no checkpoint finds it."""

    rounds = 0

    def aggregate(self, updates: Updates, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        self.rounds += 1
        return updates.deltas.mean(0) / self.rounds, state


@coordinatewise
def krum_like(deltas: Tensor, weights: Tensor) -> Tensor:
    """Marked as if its coordinates did not depend on each other."""
    return deltas[int(deltas.norm(dim=1).argmin())]


BUGS: dict[str, tuple[Any, str]] = {
    "shape": (lambda d, w: d, r"random updates: shape: got \(9, 12\); expected \(12,\)"),
    "scalar": (lambda d, w: 1.0, r"got a float; expected a tensor"),
    "dtype": (lambda d, w: d.float().mean(0), "dtype: got torch.float32; expected torch.float64"),
    "division by zero": (lambda d, w: d.mean(0) / d.norm(), "updates of zero: got 12 numbers that are NaN"),
    "raises": (lambda d, w: d[20], "random updates raised IndexError"),
    "order": (lambda d, w: d[0], "same clients in another order: got an answer that differs"),
    "in place": (lambda d, w: d.mul_(2.0).mean(0), "arguments that were changed in place"),
    "torch's generator": (lambda d, w: d.mean(0) * torch.rand(1), "global generator of torch"),
    "numpy's generator": (lambda d, w: d.mean(0) * np.random.random(), "global generator of numpy"),
    "python's generator": (lambda d, w: d.mean(0) * random.random(), "global generator of Python"),
    "hidden memory": (Counts, "two answers to the same question"),
    "no pair": (Object(lambda u, s: u.deltas.mean(0)), r"got Tensor; expected a pair"),
    "state in place": (
        Object(lambda u, s: (u.deltas.mean(0), s.update(n=s.get("n", 0) + 1) or s)),
        "arguments that were changed in place",
    ),
    "no checkpoint": (
        Object(lambda u, s: (u.deltas.mean(0), {"ids": {1, 2}})),
        "remembers a set under 'ids', which a checkpoint cannot",
    ),
    "coordinates": (krum_like, "coordinatewise aggregator on half of the columns"),
    "coordinates with a state": (
        Object(Remembers().aggregate, coordinatewise=True),
        "state of a coordinatewise aggregator: got velocity, rounds; expected none",
    ),
    "minimum": (
        Object(lambda u, s: (u.deltas.sort(0).values[2:-2].mean(0), s), minimum=4),
        r"on 4 updates \(its minimum\): got 12 numbers",
    ),
    "root without saying so": (Object(lambda u, s: (u.root * 1.0, s)), "raised TypeError"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_of_an_aggregator_is_named(bug: str) -> None:
    aggregator, told = BUGS[bug]
    with pytest.raises(ContractError, match=told):
        check_aggregator(aggregator)


class Step:
    """A function of delta and state, as a server optimizer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.step = function


OPTIMIZER_BUGS: dict[str, tuple[Any, str]] = {
    "no step": (object(), r"got object; expected an object with step\(delta, state\)"),
    "no pair": (Step(lambda d, s: d), "got Tensor; expected a pair"),
    "dtype": (Step(lambda d, s: (d.float(), s)), "dtype: got torch.float32"),
    "division by zero": (Step(lambda d, s: (d / d.norm(), s)), "on deltas of zero: got 12 numbers"),
    "in place": (Step(lambda d, s: (d.neg_(), s)), "changed in place"),
    "state in place": (Step(lambda d, s: (d + 0, s.setdefault("n", 1) and s)), "changed in place"),
    "no checkpoint": (Step(lambda d, s: (d + 0, {"v": d.numpy()})), "remembers a ndarray under 'v'"),
    "generator": (Step(lambda d, s: (d + torch.randn_like(d), s)), "global generator of torch"),
}


@pytest.mark.parametrize("bug", OPTIMIZER_BUGS)
def test_each_bug_of_a_server_optimizer_is_named(bug: str) -> None:
    optimizer, told = OPTIMIZER_BUGS[bug]
    with pytest.raises(ContractError, match=told):
        check_server_optimizer(optimizer)


def test_a_server_optimizer_with_memory_of_its_own_is_found_out() -> None:
    class Hidden:
        velocity: Any = 0.0

        def step(self, delta: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
            self.velocity = delta + 0.9 * self.velocity
            return self.velocity, state

    with pytest.raises(ContractError, match="two answers to the same question"):
        check_server_optimizer(Hidden)


def picks(population: Any, size: int, round: int, generator: np.random.Generator) -> Any:
    return generator.choice(population.nodes, size=size, replace=False)


class Turns:
    """Whose turn it is stands on the object."""

    turn = 0

    def __call__(self, population: Any, size: int, round: int, generator: Any) -> list[int]:
        self.turn += 1
        return [population.nodes[self.turn // 2 % len(population.nodes)]]


SAMPLER_BUGS: dict[str, tuple[Any, str]] = {
    "no function": (3, "a sampler: got int; expected a function"),
    "array": (picks, "got a ndarray; expected a list of ids"),
    "numpy's integers": (lambda *a: sorted(picks(*a)), "ids of type: got int64; expected int"),
    "unsorted": (lambda p, s, r, g: list(p.nodes)[:s][::-1], "expected each client once, ascending"),
    "twice": (lambda p, s, r, g: [p.nodes[0]] * s, "expected each client once"),
    "positions": (lambda p, s, r, g: list(range(s)), r"ids: got \[0\]; expected ids of the population"),
    "generator": (lambda p, s, r, g: sorted(random.sample(p.nodes, s)), "global generator of Python"),
    "hidden memory": (Turns, "two answers|rounds asked in another order"),
}


@pytest.mark.parametrize("bug", SAMPLER_BUGS)
def test_each_bug_of_a_sampler_is_named(bug: str) -> None:
    sampler, told = SAMPLER_BUGS[bug]
    with pytest.raises(ContractError, match=told):
        check_sampler(sampler)
