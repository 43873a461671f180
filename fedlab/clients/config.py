"""How a client was told to train; the server said it, so an attacker may know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        records: how many records each client holds.
        rounds: rounds of training; a client may be asked in each.
        config: the clients' configuration.
    """

    records: tuple[int, ...]
    rounds: int
    config: ClientConfig
