"""What a client's noise should come to: by its own rule, as it was told to train.

A client tells the accountant what it did. What it tells is held against the plan, so that a proof is not
given for another mechanism than the one that was configured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flwr.app import ConfigRecord, Message, MetricRecord

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import EPOCHS, REPEAT
from fedlab.clients.plan import steps_per_round
from fedlab.privacy import Event
from fedlab.runtime import client_of

NOISY = ("dp-noise-multiplier", "dp-sample-rate", "dp-steps")
"""What a client with noise tells the accountant."""

SILENT = "clients sent updates without saying what noise is in them"
SENSELESS = "clients said of their noise what makes no sense"
OTHER_NOISE = "the noise was not as strong as configured"
OTHER_RATE = "batches were not drawn at the configured rate"
OTHER_STEPS = "other numbers of steps were taken than planned"
NOT_POISSON = "batches are shuffled, and not Poisson samples"


class Plan:
    """What each message asks its client to spend.

    Args:
        rule: that the clients train by, defended.
        config: that they train with.
        records: how many each client holds.
    """

    def __init__(self, rule: LocalRule, config: ClientConfig, records: Sequence[int]) -> None:
        self.rule, self.config, self.records = rule, config, records

    def of(self, message: Message, round: int) -> Event | None:
        """The noisy steps that the message asks for; None where clients add no noise."""
        return self.event(client_of(message.metadata.dst_node_id), round, told(message, self.config), message)

    def event(
        self, client: int, round: int, config: ClientConfig | None = None, message: Message | None = None
    ) -> Event | None:
        """The noisy steps of a client in one round."""
        records = self.records[client]
        steps = steps_per_round(records, config or self.config)
        figures = self.rule.metrics(records, steps, 0.0)
        if figures.keys().isdisjoint(NOISY):
            return None
        return reported(figures, client, round, 0 if message is None else repeat(message))

    def compared(self, event: Event, planned: Event | None) -> Event:
        """The event, marked where it is not as planned."""
        if event.amiss or planned is None:
            return event
        checks = {
            OTHER_NOISE: event.noise_multiplier != planned.noise_multiplier,
            OTHER_RATE: event.sample_rate != planned.sample_rate,
            OTHER_STEPS: event.steps != planned.steps,
            NOT_POISSON: event.sample_rate < 1.0 and self.config.sampling != "poisson",
        }
        found = [what for what, wrong in checks.items() if wrong]
        return replace(event, amiss="; ".join(found)) if found else event


def reported(metrics: Mapping[str, object] | MetricRecord, client: int, round: int, repeat: int) -> Event:
    """What a client says of its noise; what makes no sense is no noise."""
    sigma, rate, steps = (metrics.get(name) for name in NOISY)
    if _within(sigma, math.inf) and _within(rate, 1.0) and _within(steps, 1e12):
        return Event(client, round, float(str(sigma)), float(str(rate)), int(float(str(steps))), repeat)
    return unknown(client, round, repeat, SENSELESS)


def unknown(client: int, round: int, repeat: int, why: str) -> Event:
    """An update of which nobody can tell what noise is in it: none is assumed."""
    return Event(client, round, 0.0, 1.0, 1, repeat, amiss=why)


def told(message: Message, config: ClientConfig) -> ClientConfig:
    """How the message's client was told to train: a straggler does fewer epochs than the others."""
    settings = message.content.config_records.get("config", ConfigRecord())
    if EPOCHS not in settings:
        return config
    return replace(config, local_steps=None, local_epochs=int(str(settings[EPOCHS])))


def repeat(message: Message) -> int:
    """How often the message's client had been sent the same model before."""
    return int(str(message.content.config_records.get("config", ConfigRecord()).get(REPEAT, 0)))


def _within(value: object, largest: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= largest and value < math.inf
