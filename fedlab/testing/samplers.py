"""The contract of samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedlab import seeds
from fedlab.strategies.sampling import Population
from fedlab.testing.contract import ContractError, answer, demand, same

ROUNDS = 6


def check_sampler(sampler: Any, *, clients: int = 12, size: int = 4, seed: int = 0) -> None:
    """Whether a sampler keeps its contract.

    It asks clients that there are, ascending, each once, as Python integers, for few and all of them, for
    ids that are a `range` and others, with all devices there and half of them. It is a function of its
    arguments, drawing from its generator alone: in any order of the rounds, each asks the same clients.

    Args:
        sampler: f(population, size, round, generator) -> ids, or a class of such objects.
        clients: how many there are.
        size: how many a round is to ask.

    Raises:
        ContractError: the first thing that it does not keep.
    """
    __tracebackhide__ = True
    made: Callable[..., Any] = sampler() if isinstance(sampler, type) else sampler
    if not callable(made):
        raise ContractError(
            f"a sampler: got {type(made).__name__};"
            " expected a function (population, size, round, generator) -> ids"
        )
    nodes: dict[str, Sequence[int]] = {
        "consecutive ids": range(100, 100 + clients),
        "scattered ids": [3 * client**2 + 7 for client in range(clients)],
    }
    for name, ids in nodes.items():
        for there, available in {"all devices": None, "half of the devices": _even}.items():
            for asked in (1, size, clients):
                _rounds(
                    made, f"{name}, {there}", Population(ids, _records(ids), available, seed), asked, seed
                )


def _even(node: int) -> bool:
    return node % 2 == 0


def _records(ids: Sequence[int]) -> list[int]:
    return [5 + 3 * (place % 4) for place in range(len(ids))]


def _rounds(sampler: Callable[..., Any], name: str, population: Population, size: int, seed: int) -> None:
    __tracebackhide__ = True

    def ask(round: int) -> Any:
        def arguments() -> tuple[Population, int, int, np.random.Generator]:
            return population, size, round, seeds.numpy_generator(seed, "sampling", round)

        what = f"round {round} of {size} among {len(population.nodes)} ({name})"
        found = answer(what, sampler, arguments)
        _sound(what, found, population)
        return found

    forwards = [ask(round) for round in range(1, ROUNDS + 1)]
    backwards = [ask(round) for round in range(ROUNDS, 0, -1)][::-1]
    demand(
        same(forwards, backwards),
        f"rounds asked in another order ({name})",
        "other clients",
        "the same clients for the same round",
        "Keep nothing on the object: a run that was interrupted begins with a later round",
    )


def _sound(what: str, found: object, population: Population) -> None:
    __tracebackhide__ = True
    if not isinstance(found, list):
        raise ContractError(f"{what}: got a {type(found).__name__}; expected a list of ids")
    kinds = sorted({type(node).__name__ for node in found} - {"int"})
    demand(not kinds, f"{what}: ids of type", ", ".join(kinds), "int", "Convert them: int(node)")
    strangers = sorted(set(found) - set(population.nodes))
    demand(not strangers, f"{what}: ids", strangers, "ids of the population's nodes")
    demand(found == sorted(set(found)), what, found, "each client once, ascending")
