"""How the clients of a deployment were told to train: by their author, by a message, or by the run config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlab.apps.facts import Key
from fedlab.apps.given import Adapter
from fedlab.apps.notes import Notes
from fedlab.apps.pixels import Surety
from fedlab.apps.tap.recording import Recording
from fedlab.audit import KnownConfig
from fedlab.clients.config import Mode

KEYS = {
    "batch_size": ("batch-size", "local-batch-size", "train-batch-size", "client-batch-size"),
    "local_steps": ("local-steps", "max-steps", "num-local-steps", "num-steps"),
    "local_epochs": ("local-epochs", "num-local-epochs", "client-epochs", "num-epochs", "epochs"),
    "learning_rate": ("lr", "learning-rate", "local-lr", "client-lr", "client-learning-rate"),
    "momentum": ("momentum", "local-momentum", "client-momentum"),
    "weight_decay": ("weight-decay", "local-weight-decay", "client-weight-decay"),
}
"""What a message or a run config may call it; `_` counts as `-`, and so do capitals."""
WHOLE = ("batch_size", "local_steps", "local_epochs")
PLAIN = ("momentum", "weight_decay")
"""None unless somebody speaks of it."""
Said = tuple[float | None, str, Surety]
"""A value, who says it, and how surely."""


def told_of(notes: Notes, recording: Recording, adapter: Adapter, mode: Mode) -> dict[Key, KnownConfig]:
    """How each client was told to train, by (round, client); what is known of it goes to the notes."""
    configuration = recording.about.get("configuration", {})
    said = [
        {name: _said(name, adapter, message, configuration) for name in KEYS} for message in recording.told
    ]
    if adapter.local_epochs and not adapter.local_steps:  # or steps without epochs: what the author says goes
        for one in said:
            one["local_steps"] = (None, "", "assumed")
    by_steps = any(one["local_steps"][0] for one in said)
    for name in KEYS:
        if name != ("local_epochs" if by_steps else "local_steps"):
            _note(notes, name, [one[name] for one in said])
    return {
        (seen.round, seen.client): _known({name: value for name, (value, _, _) in one.items()}, mode)
        for seen, one in zip(recording.seen, said, strict=True)
    }


def _known(values: Mapping[str, float | None], mode: Mode) -> KnownConfig:
    counts = {name: int(value) if (value := values[name]) else None for name in WHOLE}
    return KnownConfig(
        mode=mode,
        batch_size=counts["batch_size"],
        local_steps=counts["local_steps"],
        local_epochs=None if counts["local_steps"] else counts["local_epochs"],
        learning_rate=values["learning_rate"],
        momentum=values["momentum"] or 0.0,
        weight_decay=values["weight_decay"] or 0.0,
        sampling="shuffle",
    )


def _note(notes: Notes, name: str, said: list[Said]) -> None:
    numbers = sorted({value for value, _, _ in said if value})
    words = name.replace("_", " ")
    if numbers:
        _, source, sure = next(one for one in said if one[0])
        ends = f"{numbers[0]:g}" + (f" to {numbers[-1]:g}" if len(numbers) > 1 else "")
        notes.add(words, ends, source, sure)
    elif name not in PLAIN:
        notes.add(words, "not known", "neither the author, nor messages, nor the run config say", "assumed")


def _said(name: str, adapter: Adapter, message: Mapping[str, Any], configuration: Mapping[str, Any]) -> Said:
    """A number above 0, from whoever says it first: the author, the message, the run config."""
    stated = getattr(adapter, name)
    if stated is not None:
        return float(stated), "stated by the app's author", "stated"
    for words, told in (("the message to the client", message), ("the run config", configuration)):
        known = {key.rpartition(".")[2].replace("_", "-").lower(): key for key in told}
        for key in (known[one] for one in KEYS[name] if one in known):
            value = told[key]
            number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if number and (name not in WHOLE or value == int(value)):
                return float(value), f"{words} says {key} = {value:g}", "stated"
    return None, "", "assumed"
