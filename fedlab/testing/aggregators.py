"""The contract of aggregators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedlab import seeds
from fedlab.errors import PluginError
from fedlab.strategies import Aggregator, Updates, as_aggregator
from fedlab.strategies.aggregators import AggregatorState, minimum, needs_root
from fedlab.testing.contract import ContractError, answer, demand, kept, pair, same, vector

ROUNDS = 4


def check_aggregator(
    aggregator: object, *, clients: int = 9, parameters: int = 12, tolerance: float = 1e-9, seed: int = 0
) -> None:
    """Whether an aggregator keeps its contract.

    It answers with a finite vector (d,) of float64 for updates that are random, equal, zero, tiny, of one
    coordinate, with one huge among them, and as few as it says it can combine. It is a function of its
    arguments, which it leaves as they are. The order of the clients does not matter (unless it draws from
    `updates.generator`). Its state survives a checkpoint, to the last bit. One that is marked
    `coordinatewise` remembers nothing, and its coordinates can be worked out apart.

    Args:
        aggregator: a function (deltas, weights) -> delta, an object with `aggregate`, or a class of such.
        clients: n; more if the aggregator needs more.
        parameters: d.
        tolerance: by how much the orders of the clients may differ, relative to the longest update.

    Raises:
        ContractError: the first thing that it does not keep.
    """
    __tracebackhide__ = True
    try:
        made = as_aggregator(aggregator)
    except PluginError as error:
        raise ContractError(str(error)) from error
    least = minimum(made)
    demand(least >= 1, "minimum", least, "at least 1, the updates that it needs")
    generator = seeds.torch_generator(seed, "contract")
    n = max(clients, least)
    usual = torch.randn(n, parameters, generator=generator, dtype=torch.float64)
    huge = usual.clone()
    huge[-1] *= 1e6
    cases = {
        "random updates": usual,
        "equal updates": usual[:1].repeat(n, 1),
        "updates of zero": torch.zeros_like(usual),
        "tiny updates": usual * 1e-12,
        "updates of one coordinate": usual[:, :1].contiguous(),
        "one update a million times longer": huge,
        f"{least} updates (its minimum)": usual[:least],
    }
    for name, deltas in cases.items():
        updates = functools.partial(_updates, made, deltas, range(len(deltas)), 1)
        _aggregate(made, f"aggregate on {name}", updates, {})
    _any_order(made, usual, tolerance)
    _state(made, usual, least)
    if getattr(made, "coordinatewise", False):
        _columns(made, usual, tolerance)


def _updates(aggregator: Aggregator, deltas: Tensor, clients: Sequence[int], round: int) -> Updates:
    """One round's updates, as a composition passes them; `clients` hold 10, 13, 16, ... records."""
    weights = torch.tensor([10.0 + 3 * client for client in clients], dtype=torch.float64)
    return Updates(
        deltas=deltas.clone(),
        weights=weights,
        clients=tuple(range(len(clients))),
        metrics=tuple({"num-examples": weight, "train-loss": 1.0} for weight in weights.tolist()),
        steps=weights / 2,
        root=deltas.mean(0) if needs_root(aggregator) else None,
        generator=seeds.torch_generator(round, "contract", "aggregator"),
    )


def _aggregate(
    aggregator: Aggregator, what: str, updates: Callable[[], Updates], state: AggregatorState
) -> tuple[Tensor, AggregatorState]:
    __tracebackhide__ = True
    found = answer(what, aggregator.aggregate, lambda: (updates(), kept("the aggregator", state)))
    delta, new = pair(what, found)
    vector(what, delta, updates().deltas.shape[1])
    return delta, new


def _any_order(aggregator: Aggregator, deltas: Tensor, tolerance: float) -> None:
    """The same clients in another order come to the same, but for rounding."""
    __tracebackhide__ = True
    given = _updates(aggregator, deltas, range(len(deltas)), 1)
    before = given.generator.get_state()
    expected, _ = aggregator.aggregate(given, {})
    if not torch.equal(before, given.generator.get_state()):
        return  # what it draws depends on the order, as it may
    order = [*range(1, len(deltas), 2), *range(0, len(deltas), 2)]
    got, _ = aggregator.aggregate(_updates(aggregator, deltas[order], order, 1), {})
    apart = float((got - expected).abs().max())
    demand(
        apart <= tolerance * float(deltas.norm(dim=1).max()),
        "aggregate on the same clients in another order",
        f"an answer that differs by {apart:.3g}",
        "the same, but for rounding",
        "A client's place among the others means nothing; go by what it sent",
    )


def _state(aggregator: Aggregator, deltas: Tensor, least: int) -> None:
    """Rounds of different clients, with a state that goes through a checkpoint after each, and without."""
    __tracebackhide__ = True
    straight: AggregatorState = {}
    checkpointed: AggregatorState = {}
    for round in range(1, ROUNDS + 1):
        who = list(range(len(deltas)))[: max(least, len(deltas) - round)]
        updates = functools.partial(_updates, aggregator, deltas[who] / round, who, round)
        what = f"aggregate in round {round}"
        delta, straight = pair(what, aggregator.aggregate(updates(), straight))
        again, checkpointed = _aggregate(aggregator, what, updates, checkpointed)
        demand(
            same(delta, again) and same(straight, checkpointed),
            f"{what} with a state that was in a checkpoint",
            "another answer",
            "the bits of an uninterrupted run",
            "Keep all that the next round depends on in the state, and nothing on the object",
        )
        checkpointed = kept("the aggregator", checkpointed)


def _columns(aggregator: Aggregator, deltas: Tensor, tolerance: float) -> None:
    __tracebackhide__ = True
    whole, state = aggregator.aggregate(_updates(aggregator, deltas, range(len(deltas)), 1), {})
    demand(
        not state,
        "the state of a coordinatewise aggregator",
        ", ".join(state),
        "none",
        "It is called with some columns at a time, and would mix up their states: leave the mark out",
    )
    halves = [
        aggregator.aggregate(_updates(aggregator, part.contiguous(), range(len(deltas)), 1), {})[0]
        for part in deltas.tensor_split(2, dim=1)
    ]
    apart = float((torch.cat(halves) - whole).abs().max())
    demand(
        apart <= tolerance * float(deltas.norm(dim=1).max()),
        "a coordinatewise aggregator on half of the columns at a time",
        f"an answer that differs by {apart:.3g}",
        "the same as on all at once",
        "Its coordinates depend on each other: leave the mark out",
    )
