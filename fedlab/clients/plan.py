"""Which records a client uses in which step: a pure function of the seed tree.

The attacker never sees it; the scorer calls the same function to know the truth.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.clients.config import ClientConfig

Plan = list[NDArray[np.int64]]
"""Positions in the client's list of records, step by step; a Poisson step may be empty."""


def place(round: int, client: int, repeat: int = 0) -> tuple[int, ...]:
    """What a client's draws depend on: sent the same model once more, it draws anew."""
    return (round, client, repeat) if repeat else (round, client)


def plan_batches(
    records: int, config: ClientConfig, seed: int, round: int, client: int, repeat: int = 0
) -> Plan:
    """The batches of one client in one round.

    Shuffled: epochs over fresh permutations, the last short batch kept; with `local_steps` the
    batches of as many epochs as that takes; full batches are the records as they stand. Poisson: each
    record enters each step with probability batch_size / records.
    """
    size = min(config.batch_size or records, records)
    steps = steps_per_round(records, config)
    if size == records and config.sampling == "shuffle":
        return [np.arange(records)] * steps
    generator = seeds.numpy_generator(seed, "batches", *place(round, client, repeat))
    if config.sampling == "poisson":
        rate = size / records
        return [np.flatnonzero(generator.random(records) < rate) for _ in range(steps)]
    per_epoch = math.ceil(records / size)
    epochs = math.ceil(steps / per_epoch)
    orders = np.arange(records)[None].repeat(epochs, axis=0)
    generator.permuted(orders, axis=1, out=orders)
    return [order[start : start + size] for order in orders for start in range(0, records, size)][:steps]


def steps_per_round(records: int, config: ClientConfig) -> int:
    """How many steps a client with that many records takes in a round."""
    if config.local_steps is not None:
        return config.local_steps
    size = min(config.batch_size or records, records)
    return config.local_epochs * math.ceil(records / size)
