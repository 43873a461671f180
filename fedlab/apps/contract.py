"""What is left of a Flower app that ran: what its server saw, and what its clients did.

The two are kept apart for the same reason as `Observation` and `Truth` are: attacks get what is made of a
`Sight`, and the scorer alone what is made of the records of a `Recording`. How a client trains (its network,
mode, optimizer, loss) is code that the server wrote or holds, so an attacker may know it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = Mapping[str, NDArray[np.generic]]
"""Named arrays of one message, in its order; a NumPyClient's are named "0", "1", ..."""


@dataclass(frozen=True)
class Sight:
    """One training reply beside the message that it answers: all that the server holds of it.

    Attributes:
        round: counted from 1, by the rounds of training messages.
        client: partition id of the node.
        before: arrays that were sent; after: arrays that came back; both empty where a message has none.
        told: the scalars of the message's configuration; metrics: those of the reply.
    """

    round: int
    client: int
    before: Arrays
    after: Arrays
    told: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer:
    """What stepped.

    Attributes:
        name: of its class, such as "SGD" or "Adam".
        settings: of its first parameter group at the first step, without tensors ("lr", "momentum", ...).
        differ: those in which other groups are not as the first.
    """

    name: str
    settings: Mapping[str, Any]
    differ: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """One step of an optimizer; where none stepped, all that a gradient was taken of.

    Attributes:
        inputs: (B, ...) as the network got them; targets: as the loss got them, None if no loss was seen.
    """

    inputs: Tensor
    targets: Tensor | None


@dataclass(frozen=True, eq=False)
class Recording:
    """What one client did in one training message.

    Attributes:
        network: a copy of the outermost module as it was before its first step; None if none was trained.
        training: whether it was in training mode at the first step.
        optimizer: what stepped; None if nothing did.
        loss: name of the class or function of the loss, "" if none was seen ("CrossEntropyLoss").
        steps: in order; dropped: how many more there were, whose tensors would have taken too much memory.
        loss_settings: of the loss, where they are not torch's own defaults ("label_smoothing", "reduction").
        notes: what a reader must know of it: what was not recorded, or changed on the way.
    """

    network: nn.Module | None
    training: bool
    optimizer: Optimizer | None
    loss: str
    steps: Sequence[Step]
    dropped: int = 0
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Ran:
    """An app that ran to its end.

    Attributes:
        sights: of the rounds that were asked for, by round, then client.
        recordings: by (round, client); of the same rounds.
        metrics: what the server's strategy aggregated of evaluations, by round.
        configuration: the run config that was used.
        rounds: of training that took place.
        replies: training replies in all; failed: how many of them were errors, and the first one's words.
        output: what the app printed, its last 200 lines.
        masked: replies of which the server sees a sum alone, with others.
        unevaluated: how many evaluations of clients failed, and why; "" if none did.
    """

    sights: Sequence[Sight]
    recordings: Mapping[tuple[int, int], Recording]
    metrics: Mapping[int, Mapping[str, float]]
    configuration: Mapping[str, Any]
    rounds: int
    replies: int
    failed: int
    failure: str
    output: Sequence[str]
    unevaluated: str = ""
    masked: int = 0
