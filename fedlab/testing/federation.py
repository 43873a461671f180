"""A small federation on which rules and strategies are tried: five unequal clients, 175 numbers to learn."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import nn

from fedlab.errors import FedlabError
from fedlab.experiment.cells import Cell
from fedlab.experiment.checkpoints import Checkpoints
from fedlab.experiment.world import global_draws
from fedlab.runtime import (
    Executor,
    GuardedGrid,
    InlineExecutor,
    SimulationGrid,
    TappedGrid,
    quiet_logger,
    single_thread,
)
from fedlab.runtime.arrays import array_record, tensors
from fedlab.runtime.devices import SimulatedFleet, UniformFleet
from fedlab.snapshot import Resumable, Snapshot
from fedlab.strategies.rounds import OwnRounds, rounds
from fedlab.tasks import Dataset, State, Task
from fedlab.testing.contract import ContractError, demand

SIZES = (5, 12, 9, 7, 4)
"""Records of each client."""

TIMES = (1.0, 3.5, 1.0, 2.0, 5.0)
"""Virtual seconds that each takes, where a strategy has no rounds in which to wait for all of them."""

SEED = 3
ROUNDS = 3


def small_task() -> Task:
    """Images of 4x4 in three classes, for a network with batch norm and dropout."""
    total = sum(SIZES)
    generator = np.random.default_rng(SEED)
    y = np.arange(total) % 3
    x = generator.random((total, 1, 4, 4)) * 0.5 + y[:, None, None, None] * 0.2
    data = Dataset("small", x.astype(np.float32), y.astype(np.int64), 3, source="made here", synthetic=True)
    return Task(data, data, _network)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)
    )


def owners(task: Task) -> list[NDArray[np.int64]]:
    """Which records are whose: in proportion to `SIZES`, as far as the task's records reach."""
    ends = np.cumsum((0, *SIZES)) * min(len(task.train), sum(SIZES)) // sum(SIZES)
    return [np.arange(start, end) for start, end in itertools.pairwise(ends)]


def course(
    app: ClientApp, make: Callable[[], Strategy], start: State, *, cut: bool = False, ray: bool = False
) -> list[State]:
    """The model after each round, through Flower messages and a guard.

    Args:
        cut: whether all is put together anew after the first round, from a checkpoint.

    Raises:
        ContractError: a client failed, its update was turned away, or a round left the model as it was.
    """
    __tracebackhide__ = True
    quiet_logger()
    models: list[State] = []
    with single_thread(), global_draws(Cell("none", "train", SEED)) as begin, _executor(ray) as executor:
        strategy = make()
        grid = _grid(app, executor, strategy)
        for number in range(1, ROUNDS + 1):
            begin(number)
            try:
                models.append(_round(grid, strategy, models[-1] if models else start, number))
            except ContractError:
                raise
            except Exception as error:  # a plugin may raise anything
                told = f"{type(error).__name__}: {error}"
                raise ContractError(f"round {number} of a small federation raised {told}") from error
            if cut and number == 1 and isinstance(strategy, Resumable):
                parts = {"grid": grid.snapshot(), "strategy": _snapshot(strategy)}
                strategy = make()
                grid = _grid(app, executor, strategy)
                found = _from_disk(Snapshot.of(parts))
                grid.restore(found.get("grid"))
                cast(Resumable, strategy).restore(found.get("strategy"))
    return models


@contextmanager
def _executor(ray: bool) -> Iterator[Executor]:
    if not ray:
        yield InlineExecutor()
        return
    from fedlab.runtime import RayExecutor

    with closing(RayExecutor(workers=2)) as executor:
        yield executor


def _grid(app: ClientApp, executor: Executor, strategy: Strategy) -> SimulationGrid:
    count = len(SIZES)
    fleet = SimulatedFleet(count, time=TIMES) if isinstance(strategy, OwnRounds) else UniformFleet(count)
    return SimulationGrid(app, fleet, executor, seed=SEED, chunk=3)


def _round(grid: SimulationGrid, strategy: Strategy, state: State, number: int) -> State:
    __tracebackhide__ = True
    guarded = GuardedGrid(
        grid,
        weight=getattr(strategy, "weighted_by_key", "num-examples"),
        uplinks=getattr(strategy, "uplinks", None),
    )
    tapped = TappedGrid(guarded, _listen)
    (done, *_) = [*rounds(strategy, tapped, array_record(state), first=number, last=number), None]
    if done is None:
        why = getattr(strategy, "ended", "") or "it gave nothing"
        raise ContractError(f"round {number} of a small federation was not made: {why}")
    if not done.updated:
        why = getattr(strategy, "why_skipped", "") or "the strategy made no model of the replies"
        raise ContractError(f"round {number} of a small federation left the model as it was: {why}")
    made, what = tensors(done.arrays), f"the model after round {number}"
    demand(set(made) == set(state), f"{what}: names", sorted(made), f"{sorted(state)}")
    for name, value in made.items():
        like = state[name]
        demand(value.shape == like.shape, f"{what}: {name}", tuple(value.shape), f"{tuple(like.shape)}")
        alike = value.is_floating_point() == like.is_floating_point()  # flwr's FedOpt answers in float64
        demand(alike, f"{what}: {name}", value.dtype, f"{like.dtype}")
    return made


def _listen(message: Message, reply: Message) -> None:
    if reply.has_error():
        reason = (reply.error.reason or "no reason was given").strip()
        told = reason.splitlines()[-1]
        raise ContractError(f"a client of a small federation failed: {told}")


def _snapshot(strategy: Resumable) -> Snapshot:
    __tracebackhide__ = True
    try:
        return strategy.snapshot()
    except FedlabError as error:
        raise ContractError(str(error)) from error


def _from_disk(snapshot: Snapshot) -> Snapshot:
    """What comes back from the files of a checkpoint."""
    damages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), 1, 1.0)
        checkpoints.save(1, snapshot)
        found = checkpoints.load(damages.append)
    if found is None:
        raise ContractError(f"the checkpoint of a small federation cannot be read back: {damages}")
    return found
