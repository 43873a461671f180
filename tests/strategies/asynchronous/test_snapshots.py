"""Mid-buffer: what a strategy and its Grid remember is all that the rest of the run depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message

from fedlab.clients import ClientConfig
from fedlab.clients.app import CohortApp
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import DataError
from fedlab.runtime import Executor, GuardedGrid, SimulationGrid, TappedGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.runtime.devices import SimulatedFleet
from fedlab.runtime.executors import InlineExecutor
from fedlab.runtime.tap import Unanswered
from fedlab.snapshot import Snapshot
from fedlab.strategies import Adam
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.asynchronous.staleness import Polynomial
from fedlab.strategies.rounds import rounds
from fedlab.tasks import State
from fedlab.testing.contract import same
from fedlab.testing.federation import owners, small_task
from tests.strategies.asynchronous.scenes import SEED, server

# Ties (six arrive in pairs), drop-outs, and deadlines that slow devices miss.
FLEET = SimulatedFleet(5, time=[1.0, 1.0, 2.0, 0.5, 5.0], dropout=0.1)
ROUNDS = 9


class Scene:
    """Five clients with SCAFFOLD, dropout and batch norm; FedBuff with Adam behind a guard and a tap."""

    def __init__(self, executor: Executor | None = None, make: Callable[..., CohortApp] = CohortApp) -> None:
        task, rule = small_task(), Scaffold()
        config = ClientConfig(batch_size=4, local_epochs=1, learning_rate=0.05)
        app = make(task, owners(task), rule, config, SEED)
        self.grid = SimulationGrid(app, FLEET, executor or InlineExecutor(), seed=SEED, chunk=2)
        model = task.model(SEED)
        self.strategy = server(
            buffer=3,
            concurrency=4,
            staleness=Polynomial(),
            optimizer=Adam(learning_rate=0.01),
            rule=rule,
            parameters=list(model.parameter_names),
            config=config,
            max_staleness=1,
        )
        self.state = model.state()
        self.done = 0

    def path(self, number: int) -> list[State]:
        """The models of the next versions."""
        made = []
        guard = GuardedGrid(self.grid, uplinks=self.strategy.uplinks)
        tap = TappedGrid(guard, lambda message, reply: None, nobody)
        for one in rounds(
            self.strategy,
            tap,
            array_record(self.state),
            first=self.done + 1,
            last=self.done + number,
            timeout=2.5,
        ):
            self.done, self.state = one.number, tensors(one.arrays)
            made.append(self.state)
        open_ = len(self.strategy.trips) - len(self.strategy._arrived)
        assert len(tap._open) == len(guard._open) == open_, "nothing of a trip that is over is kept"
        return made

    def revived(self) -> Scene:
        """All anew, from what a checkpoint holds: tensors, and what JSON can say."""
        whole = Snapshot.of({"strategy": self.strategy.snapshot(), "grid": self.grid.snapshot()})
        stored = Snapshot(
            {name: value.clone() for name, value in whole.tensors.items()},
            json.loads(json.dumps(whole.values)),
        )
        scene = Scene()
        scene.strategy.restore(stored.get("strategy"))
        scene.grid.restore(stored.get("grid"))
        scene.state, scene.done = self.state, self.done
        return scene


nobody: Unanswered = lambda messages, why: None  # noqa: E731


@pytest.fixture(scope="module")
def whole() -> tuple[list[State], dict[str, Any]]:
    scene = Scene()
    return scene.path(ROUNDS), scene.strategy.facts()


def test_a_run_that_is_cut_at_any_place_goes_on_to_the_same_bits(
    whole: tuple[list[State], dict[str, Any]],
) -> None:
    """Also where replies have arrived that nobody has looked at yet."""
    arrived = 0
    scene, made = Scene(), []
    for _ in range(ROUNDS):
        made += scene.path(1)
        arrived += len(scene.strategy._arrived)
        scene = scene.revived()
    assert arrived > 0, "a cut with replies that have arrived"
    assert same(made, whole[0]) and scene.strategy.facts() == whole[1]
    assert whole[1]["discarded"] > 0 and whole[1]["mean_staleness"] > 0


class Cut(Exception):
    """The moment at which a server dies."""


def test_a_part_filled_buffer_is_part_of_it(whole: tuple[list[State], dict[str, Any]]) -> None:
    """Cut in the middle of version 3; a server that forgets what its buffer held comes to other bits."""
    scene = Scene()
    made = scene.path(2)
    strategy = scene.strategy
    take = strategy._take

    def stop(reply: Message, number: int) -> None:
        take(reply, number)
        if strategy.held:
            raise Cut

    strategy._take = stop  # type: ignore[method-assign]
    with pytest.raises(Cut):
        scene.path(1)
    assert 0 < len(strategy.held) < strategy.buffer
    rest, forgetful = scene.revived(), scene.revived()
    forgetful.strategy.held.clear()
    assert same(made + rest.path(ROUNDS - 2), whole[0])
    assert not same(made + forgetful.path(ROUNDS - 2), whole[0])


def test_the_state_of_another_algorithm_is_refused() -> None:
    class Other(Buffered):
        kind = "other"

    scene = Scene()
    scene.strategy.__class__ = Other
    with pytest.raises(DataError, match="comes from another algorithm than fedbuff"):
        Scene().strategy.restore(scene.strategy.snapshot())
