"""How a client was told to train, read from what it did: batch sizes, steps or epochs, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.apps.contract import Recording, Sight
from fedlab.apps.given import Adapter
from fedlab.apps.stepping import DECOUPLED, NORMALISED, rate_of
from fedlab.audit import KnownConfig
from fedlab.clients.config import Mode

EXAMPLES = ("num-examples", "num_examples")


def examples(sight: Sight) -> int | None:
    """How many records the client says that it has; None if it does not say."""
    for key in EXAMPLES:
        value = sight.metrics.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
            return int(value)
    return None


def mode_of(recording: Recording, adapter: Adapter) -> Mode:
    """How the client ran its network."""
    return adapter.mode or ("train" if recording.training else "eval")


def known(recording: Recording, sight: Sight, adapter: Adapter) -> KnownConfig:
    """What a server that wrote the app knows of this client's training."""
    sizes = [len(step.inputs) for step in recording.steps]
    settings = recording.optimizer.settings if recording.optimizer is not None else {}
    epochs = epochs_of(sizes, examples(sight))
    name = recording.optimizer.name if recording.optimizer is not None else ""
    summed, decays = name not in NORMALISED, name not in NORMALISED - DECOUPLED
    return KnownConfig(
        mode=mode_of(recording, adapter),
        batch_size=max(sizes, default=0) or None,
        local_steps=None if epochs else len(sizes) or None,
        local_epochs=epochs,
        learning_rate=rate_of(recording) if adapter.learning_rate is None else adapter.learning_rate,
        momentum=_first(adapter.momentum, settings if summed else {}, "momentum", 0.0),
        weight_decay=_first(adapter.weight_decay, settings if decays else {}, "weight_decay", 0.0),
        sampling="shuffle",
    )


def epochs_of(sizes: Sequence[int], records: int | None) -> int | None:
    """Whole passes over `records` in batches that were used in these sizes; None if they are no such thing.

    >>> epochs_of([2, 2, 1, 2, 2, 1], 5)
    2
    >>> epochs_of([2], 5) is None
    True
    """
    if not sizes or not records or max(sizes) > records:
        return None
    batch = max(sizes)
    epoch = [min(batch, records - start) for start in range(0, records, batch)]
    passes = len(sizes) // len(epoch)
    return passes if list(sizes) == epoch * passes else None


def key_of(configuration: Mapping[str, Any], value: float | None, *words: str) -> str:
    """The key of a run config that says `value` and is called after one of `words`; "" if none does."""
    for key, told in configuration.items():
        name = key.replace("_", "-").lower()
        number = isinstance(told, int | float) and not isinstance(told, bool)
        if number and value is not None and math.isclose(told, value) and any(one in name for one in words):
            return key
    return ""


def _first(
    stated: float | None, settings: Mapping[str, Any], key: str, default: float | None = None
) -> float | None:
    if stated is not None:
        return stated
    value = settings.get(key, default)
    return float(value) if isinstance(value, int | float) else default
