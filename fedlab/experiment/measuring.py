"""How good a cell's model is, on the test set or as its clients say, whatever kind of model that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedlab.adversaries import Group
from fedlab.experiment.cells import Parts
from fedlab.experiment.evaluation import evaluate, per_client, told
from fedlab.experiment.personal import PerClient, accuracy_of, ask_clients, mean_over_clients
from fedlab.experiment.several import Measured, measure
from fedlab.experiment.watch import Watcher
from fedlab.tasks import State
from fedlab.tasks.population import sizes


@dataclass(frozen=True)
class Examiner:
    """Looks at models of one cell.

    Attributes:
        owners: record ids of each client; of many clients, those are looked at whom the watcher heard.
        timeout: seconds to wait for clients on a Grid that is not simulated.
    """

    parts: Parts
    owners: Sequence[NDArray[np.int64]]
    adversaries: Sequence[Group]
    grid: Grid
    watcher: Watcher
    timeout: float | None

    @property
    def personal(self) -> bool:
        """Whether clients have models of their own, of which the server knows a part at most."""
        return bool(self.parts.personal) or isinstance(self.parts.strategy, PerClient)

    def measure(self, state: State, round: int, *, each: bool) -> Measured:
        """Loss and accuracy on the test set, and each client's: of personal models as the clients say, of a
        common one only if `each` is wanted, for that takes a look at what they hold."""
        parts = self.parts
        clients = told(len(self.owners), self.watcher.heard | self.watcher.unheard)
        if parts.tasks:
            return measure(parts, state, clients if each else ())
        if not self.personal:
            loss, accuracy, by_class = evaluate(parts.model, parts.task, state)
            clients = clients if each else ()
            rows = per_client(parts.task, self.owners, by_class, self.adversaries, clients)
            return Measured(loss, accuracy, rows)
        rows = ask_clients(self.grid, parts.strategy, state, round, sizes(self.owners), self.timeout, clients)
        attacks = {client: group.label for group in self.adversaries for client in group.clients}
        rows = [
            row | ({"adversary": attacks[row["client"]]} if row["client"] in attacks else {}) for row in rows
        ]
        return Measured(mean_over_clients(rows, "loss"), accuracy_of(rows), rows)
