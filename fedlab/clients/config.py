"""How a client was told to train; the server said it, so an attacker may know it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from fedlab.tasks.population import Sizes

Mode = Literal["train", "eval"]
Sampling = Literal["shuffle", "poisson"]


@dataclass(frozen=True)
class ClientConfig:
    """One client's local training.

    Attributes:
        mode: "train" (dropout live, batch statistics) or "eval" (dropout off, running statistics).
        batch_size: records per step; under Poisson sampling the expected number; 0 = all records.
        local_steps: mini-batch steps per round, or None to count `local_epochs` instead.
        local_epochs: passes over the client's records per round, when `local_steps` is None.
        learning_rate, momentum, weight_decay: of plain SGD, as in torch.optim.SGD.
        sampling: "shuffle" (epochs over a permutation) or "poisson" (each record independently).
    """

    mode: Mode = "train"
    batch_size: int = 32
    local_steps: int | None = None
    local_epochs: int = 1
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    sampling: Sampling = "shuffle"


@dataclass(frozen=True)
class Federation:
    """What a defense may plan with before training: nothing that is not public to the operator.

    Attributes:
        records: how many records each client holds; `sizes` says which numbers there are without asking all.
        rounds: rounds of training; a client may be asked in each.
        config: the clients' configuration.
        cohort: updates that a round is meant to combine: of an asynchronous server, its buffer.
        rate: probability with which each client takes part in a round, independently of all others and of
            earlier rounds; 1 where it is not drawn so, whatever its share of rounds is.
        dropout: the largest probability with which a client that is asked does not answer.
        secure: whether noise is drawn from the operating system, not from the seed tree.
        quorum: updates that a round needs.
        enough: updates after which a round goes on without the others; None: it waits for all.
        participations: rounds in which one client takes part at most; None if nothing bounds them.
        seed: of the run, for draws that the server makes itself.
    """

    records: Sequence[int]
    rounds: int
    config: ClientConfig
    cohort: int = 1
    rate: float = 1.0
    participations: int | None = None
    seed: int = 0
    dropout: float = 0.0
    secure: bool = False
    quorum: int = 1
    enough: int | None = None

    @property
    def most(self) -> int:
        """Rounds in which one client can take part."""
        return self.rounds if self.participations is None else min(self.rounds, self.participations)

    @property
    def sizes(self) -> Collection[int]:
        """Every number of records that a client holds, or may hold if the population is never listed."""
        if isinstance(self.records, Sizes):
            return range(self.records.least, self.records.most + 1)
        return frozenset(self.records)
