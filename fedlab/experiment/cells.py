"""One cell to train, by name (strategy, defense, client mode, seed); its parts, and what it became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlab.audit import Disclosure
from fedlab.audit.disclosure import NOTHING
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.config import Mode
from fedlab.clients.several import joined
from fedlab.clients.stacking import Chunking
from fedlab.tasks import FunctionalModel, State, Task


@dataclass(frozen=True)
class Cell:
    """What one training run is, by name; `strategy` is "" where a scenario has no `[[strategies]]`."""

    defense: str
    mode: Mode
    seed: int
    strategy: str = ""

    @property
    def name(self) -> str:
        return f"{self.trained}-{self.mode}-s{self.seed}"

    @property
    def trained(self) -> str:
        """What it is trained with: the defense, behind the strategy where there are several."""
        return f"{self.strategy}-{self.defense}" if self.strategy else self.defense

    @property
    def about(self) -> dict[str, Any]:
        """The same for files; those of a scenario without `[[strategies]]` name none."""
        named = {"strategy": self.strategy} if self.strategy else {}
        return {**named, "defense": self.defense, "client_mode": self.mode, "seed": self.seed}


@dataclass(frozen=True)
class Trained:
    """A cell that is trained: what its attackers and its scorer need to know about it.

    What else it left behind lies in the run directory.

    Attributes:
        used: ids of the records of each local step, by (round, client), where clients were watched; None
            where they are recomputed from the seed tree.
    """

    cell: Cell
    task: Task
    model: FunctionalModel
    config: ClientConfig
    owners: Sequence[NDArray[np.int64]]
    metrics: dict[str, Any]
    weights_sha256: str
    personal: frozenset[str] = frozenset()
    disclosure: Disclosure = NOTHING
    used: Mapping[tuple[int, int], Sequence[NDArray[np.int64]]] | None = None


@dataclass(frozen=True)
class Parts:
    """What a cell is made of, before it is trained; the same on any Grid.

    Attributes:
        task: its training data include what adversaries made of theirs; owners: who trains on which records.
        chunking: how cohorts are cut; a function of the scenario alone, so that workers change no bit.
        federation: what the defense planned with.
        personal: names of the parameters that never leave the clients.
        rule: the local rule, as the defense made it.
        tasks: what each of several tasks is made of, by label; what stands here is then that of the first.
    """

    task: Task
    owners: Sequence[NDArray[np.int64]]
    model: FunctionalModel
    config: ClientConfig
    app: ClientApp
    strategy: Strategy
    chunking: Chunking
    federation: Federation
    personal: frozenset[str] = frozenset()
    rule: LocalRule = field(default_factory=LocalRule)
    tasks: Mapping[str, Parts] = field(default_factory=dict)

    def state(self) -> State:
        """The model that the server begins with; of several tasks, all of them."""
        if self.tasks:
            return joined({label: parts.state() for label, parts in self.tasks.items()})
        return {name: value for name, value in self.model.state().items() if name not in self.personal}
