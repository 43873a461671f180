"""The contract of server optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedlab import seeds
from fedlab.strategies import ServerOptimizer
from fedlab.strategies.server_optimizers import OptimizerState
from fedlab.testing.contract import ContractError, answer, demand, kept, pair, same, vector

ROUNDS = 5


def check_server_optimizer(optimizer: Any, *, parameters: int = 12, seed: int = 0) -> None:
    """Whether a server optimizer keeps its contract.

    From an empty state on, it answers each delta with a finite step (d,) of float64 and a new state: for
    deltas that are random, zero, tiny and huge. It is a function of its arguments, which it leaves as they
    are. Its state survives a checkpoint, to the last bit.

    Args:
        optimizer: an object with step(delta, state), or a class of such objects.
        parameters: d.

    Raises:
        ContractError: the first thing that it does not keep.
    """
    __tracebackhide__ = True
    made: ServerOptimizer = optimizer() if isinstance(optimizer, type) else optimizer
    if not callable(getattr(made, "step", None)):
        raise ContractError(
            f"a server optimizer: got {type(made).__name__}; expected an object with step(delta, state)"
        )
    generator = seeds.torch_generator(seed, "contract")
    usual = torch.randn(ROUNDS, parameters, generator=generator, dtype=torch.float64)
    courses = {
        "random deltas": usual,
        "deltas of zero": torch.zeros_like(usual),
        "tiny deltas": usual * 1e-12,
        "huge deltas": usual * 1e9,
        "zero after others": torch.cat([usual[:2], torch.zeros_like(usual[:2])]),
    }
    for name, deltas in courses.items():
        _course(made, name, deltas)


def _course(optimizer: ServerOptimizer, name: str, deltas: Tensor) -> None:
    """Some rounds, with a state that goes through a checkpoint after each, and without."""
    __tracebackhide__ = True
    straight: OptimizerState = {}
    checkpointed: OptimizerState = {}
    for round, delta in enumerate(deltas, start=1):
        what = f"step {round} on {name}"
        before = checkpointed

        def arguments(
            delta: Tensor = delta, before: OptimizerState = before
        ) -> tuple[Tensor, OptimizerState]:
            return delta.clone(), kept("the server optimizer", before)

        moved, checkpointed = pair(what, answer(what, optimizer.step, arguments))
        vector(what, moved, len(delta))
        expected, straight = pair(what, optimizer.step(delta.clone(), straight))
        demand(
            same(moved, expected) and same(straight, checkpointed),
            f"{what} with a state that was in a checkpoint",
            "another answer",
            "the bits of an uninterrupted run",
            "Keep all that the next round depends on in the state, and nothing on the object",
        )
        checkpointed = kept("the server optimizer", checkpointed)
