"""How the clients of a deployment were told to train: by their author, by a message, or by the run config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.apps.facts import Key
from fedlab.apps.given import Adapter
from fedlab.apps.notes import Notes
from fedlab.apps.pixels import Surety
from fedlab.apps.spoken import span
from fedlab.apps.tap.recording import Recording
from fedlab.audit import KnownConfig
from fedlab.clients.config import Mode

BATCH = ("batch-size", "local-batch-size", "train-batch-size", "client-batch-size")
STEPS = ("local-steps", "max-steps", "num-local-steps", "num-steps")
EPOCHS = ("local-epochs", "num-local-epochs", "client-epochs", "num-epochs", "epochs")
RATE = ("lr", "learning-rate", "local-lr", "client-lr", "client-learning-rate")
"""Keys of a message's configuration, or of a run config; `_` counts as `-`, and so do capitals."""


def told_of(notes: Notes, recording: Recording, adapter: Adapter, mode: Mode) -> dict[Key, KnownConfig]:
    """How each client was told to train, by (round, client); what is known of it goes to the notes."""
    configuration = recording.about.get("configuration", {})
    found: dict[Key, KnownConfig] = {}
    wheres: dict[str, tuple[str, Surety]] = {}
    for one, message in zip(recording.seen, recording.told, strict=True):
        values = {}
        for name, stated_, keys in (
            ("batch_size", adapter.batch_size, BATCH),
            ("local_steps", adapter.local_steps, STEPS),
            ("local_epochs", adapter.local_epochs, EPOCHS),
            ("learning_rate", adapter.learning_rate, RATE),
        ):
            values[name], wheres[name] = _value(stated_, keys, message, configuration)
        steps = values["local_steps"]
        found[one.round, one.client] = KnownConfig(
            mode=mode,
            batch_size=_whole(values["batch_size"]),
            local_steps=_whole(steps),
            local_epochs=None if steps else _whole(values["local_epochs"]),
            learning_rate=values["learning_rate"],
            momentum=adapter.momentum or 0.0,
            weight_decay=adapter.weight_decay or 0.0,
            sampling="shuffle",
        )
    first = list(found.values())
    if not any(one.local_epochs for one in first):
        wheres.pop("local_epochs")
    for name, (source, sure) in wheres.items():
        numbers = [getattr(one, name) for one in first if getattr(one, name)]
        if not numbers:
            notes.add(name.replace("_", " "), "not known", "neither messages nor run config say", "assumed")
        elif name == "learning_rate":
            notes.add("learning rate", " to ".join(f"{v:g}" for v in sorted({*numbers})), source, sure)
        else:
            notes.add(name.replace("_", " "), span([int(v) for v in numbers]), source, sure)
    return found


def _value(
    stated_: float | None, keys: Sequence[str], message: Mapping[str, Any], configuration: Mapping[str, Any]
) -> tuple[float | None, tuple[str, Surety]]:
    """A number above 0, from whoever says it first: the author, the message, the run config."""
    if stated_:
        return float(stated_), ("stated by the app's author", "stated")
    for words, told in (("the message to the client", message), ("the run config", configuration)):
        known = {key.rpartition(".")[2].replace("_", "-").lower(): key for key in told}
        for name in keys:
            value = told.get(known.get(name, ""))
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return float(value), (f"{words} says {known[name]} = {value:g}", "stated")
    return None, ("", "assumed")


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and value == int(value) else None
