"""What an attacker is assumed to know, and how that is taken away from an observation.

How much of it goes by one name is said in `fedlab.ladder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from fedlab.audit.disclosure import NOTHING
from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.clients.config import Mode
from fedlab.ladder import LADDER as LADDER

Knowledge = Literal[
    "labels",
    "batch_size",
    "learning_rate",
    "local_steps",
    "momentum",
    "client_mode",
    "dropout_rate",
    "dropout_masks",
    "batch_norm_buffers",
    "proxy_data",
    "defense",
]
KNOWLEDGE: tuple[Knowledge, ...] = get_args(Knowledge)
Server = Literal["curious", "malicious"]


@dataclass(frozen=True)
class ThreatModel:
    """A server's knowledge and its manners; every field is printed in the report.

    The defaults are what a server that wrote the training configuration holds: it chose the batch
    size, the learning rate, the number of steps and the network (hence its dropout rates), but it
    sees neither labels nor dropout masks, and has no data of its own.

    Attributes:
        client_mode: how the client ran its network, or None if that is unknown.
        labels, batch_size, learning_rate, local_steps, dropout_rate, batch_norm_buffers: whether
            the attacker is granted each.
        momentum: whether it knows the clients' momentum and weight decay.
        dropout_masks: whether it knows which units were dropped: nobody does; an upper bound.
        proxy_data: whether it has data of the same kind.
        defense: whether it knows which defense the clients use, and how that is set.
        server: "curious" follows the protocol; "malicious" may send clients a network or parameters of its
            own making, and is then one of the attacks that say so.
        sums: whether it sees only the sum of a round's updates (secure aggregation), whatever the defense.
    """

    client_mode: Mode | None = "train"
    labels: bool = False
    batch_size: bool = True
    learning_rate: bool = True
    local_steps: bool = True
    momentum: bool = True
    dropout_rate: bool = True
    dropout_masks: bool = False
    batch_norm_buffers: bool = True
    proxy_data: bool = False
    defense: bool = True
    server: Server = "curious"
    sums: bool = False

    def grants(self, knowledge: Knowledge) -> bool:
        """Whether the attacker has that piece of knowledge."""
        value = getattr(self, knowledge)
        return value is not None if knowledge == "client_mode" else bool(value)

    def view(self, observation: Observation) -> Observation:
        """The observation as this attacker has it: what is not granted is blanked."""
        config = observation.config
        return replace(
            observation,
            config=replace(
                config,
                mode=self.client_mode,
                batch_size=config.batch_size if self.batch_size else None,
                learning_rate=config.learning_rate if self.learning_rate else None,
                local_steps=config.local_steps if self.local_steps else None,
                local_epochs=config.local_epochs if self.local_steps else None,
                momentum=config.momentum if self.momentum else None,
                weight_decay=config.weight_decay if self.momentum else None,
            ),
            buffers_after=observation.buffers_after if self.batch_norm_buffers else {},
            labels=observation.labels if self.labels else None,
            masks=observation.masks if self.dropout_masks else (),
        )

    def public(self, victim: Victim) -> Victim:
        """The victim as this attacker has it."""
        if not self.proxy_data:
            victim = replace(victim, proxy=None)
        return victim if self.defense else replace(victim, disclosure=NOTHING)
