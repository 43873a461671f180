"""What an attacker is assumed to know, and the errors when an attack asks for more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedlab.audit.observation import Observation
from fedlab.clients.config import Mode

Knowledge = Literal[
    "labels",
    "batch_size",
    "learning_rate",
    "local_steps",
    "client_mode",
    "dropout_rate",
    "batch_norm_buffers",
]


@dataclass(frozen=True)
class ThreatModel:
    """An honest-but-curious server's knowledge; every field is printed in the report.

    The defaults are what a server that wrote the training configuration holds: it chose the batch
    size, the learning rate, the number of steps and the network (hence its dropout rates), but it
    sees neither labels nor dropout masks.

    Attributes:
        client_mode: how the client ran its network, or None if that is unknown.
        labels, batch_size, learning_rate, local_steps, dropout_rate, batch_norm_buffers: whether
            the attacker is granted each.
    """

    client_mode: Mode | None = "train"
    labels: bool = False
    batch_size: bool = True
    learning_rate: bool = True
    local_steps: bool = True
    dropout_rate: bool = True
    batch_norm_buffers: bool = True

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
            ),
            buffers_after=observation.buffers_after if self.batch_norm_buffers else {},
            labels=observation.labels if self.labels else None,
        )
