"""What a defense changes of the clients' settings, as changes of the app's run config.

An app reads its batch size, its epochs and its learning rate from keys that it names as it likes. A key is
found by its name, and by saying what clients were seen to do. What no key holds cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedlab.apps.folder import Value
from fedlab.apps.schedule import key_of
from fedlab.audit import Defense
from fedlab.clients import ClientConfig
from fedlab.errors import UsageError

NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "batch_size": (("batch-size", "batchsize", "local-batch-size", "train-batch-size"), ("batch",)),
    "local_steps": (("local-steps", "max-steps", "num-steps", "steps"), ("step",)),
    "local_epochs": (("local-epochs", "num-epochs", "epochs", "num-local-epochs"), ("epoch",)),
    "learning_rate": (("learning-rate", "lr", "client-lr", "local-lr"), ("lr", "rate")),
    "momentum": (("momentum",), ("momentum",)),
    "weight_decay": (("weight-decay",), ("decay",)),
}
"""By field of `ClientConfig`: what keys are called, the usual ones first, and words that are in others."""
POISSON = "sampling"


def changed(name: str, defense: Defense, config: ClientConfig) -> dict[str, Any]:
    """The fields that a defense sets, with their new values; Poisson sampling is none of them.

    Raises:
        UsageError: the defense refuses the settings, or changes what no run config holds.
    """
    made = defense.config(config)
    found = {
        one.name: getattr(made, one.name)
        for one in fields(config)
        if getattr(made, one.name) != getattr(config, one.name)
    }
    found.pop(POISSON, None)  # batches are drawn by the app's own loader, whatever is asked for
    if "local_epochs" in found or found.get("local_steps", 0) is None:
        found.pop("local_steps", None)
    for field, value in found.items():
        if field not in NAMES:
            raise UsageError(f"{name} sets {field} = {value}, which no run config decides")
        if field == "batch_size" and not value:
            raise UsageError(f"{name} sets batch_size = 0, all records; of an app expected a number")
    return found


def keys(
    name: str, wanted: Mapping[str, Any], config: ClientConfig, configuration: Mapping[str, Value]
) -> dict[str, Value]:
    """The changes of the run config that set these fields.

    Raises:
        UsageError: no key holds one of them.
    """
    found: dict[str, Value] = {}
    for field, value in wanted.items():
        key = _key(field, getattr(config, field), configuration)
        if not key:
            known = ", ".join(sorted(configuration)) or "none"
            raise UsageError(
                f"{name} sets {field} = {value}, and no key of the run config is called so (its keys:"
                f" {known}); change it in the app's own code"
            )
        found[key] = float(value) if isinstance(configuration[key], float) else value
    return found


def _key(field: str, seen: float | None, configuration: Mapping[str, Value]) -> str:
    called, words = NAMES[field]
    plain = {key.rpartition(".")[2].replace("_", "-").lower(): key for key in configuration}
    usual = (plain[one] for one in called if one in plain and _number(configuration[plain[one]]))
    return next(usual, "") or key_of(configuration, seen, *words)


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
