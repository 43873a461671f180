"""What attackers are assumed to know: `[threat]`, and the `[[threats]]` that are tried beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from fedlab.ladder import LADDER, Level
from fedlab.scenario.sections import Name, Section

START: Level = "protocol"
"""The level where none is named."""


class Threat(Section):
    """What the attacker is granted to know besides the model and the updates, and how the server behaves. The
    defaults are those of the level `protocol`."""

    level: Level = START
    """Where to start from, least knowledge first: `weights` (what is on the wire), `protocol` (what the
    server told its clients), `proxy` (and data of the same kind), `labels` (the protocol and the labels),
    `oracle` (everything). The keys below then grant or deny one piece each."""
    labels: bool = False
    """The labels of the batch."""
    batch_size: bool = True
    """How many records a step takes."""
    learning_rate: bool = True
    """The clients' learning rate."""
    local_steps: bool = True
    """How many steps a client takes per round."""
    momentum: bool = True
    """The clients' momentum and weight decay."""
    client_mode_known: bool = True
    """Whether clients train in train or in eval mode."""
    dropout_rate: bool = True
    """The rates of the dropout layers."""
    dropout_masks: bool = False
    """Which units were dropped in each step: nobody knows, so that this is an upper bound."""
    batch_norm_buffers: bool = True
    """The running statistics before and after."""
    proxy_data: bool = False
    """Up to 512 of the held-out records, drawn by the seed: data of the same kind, of no client."""
    defense: bool = True
    """Which defense the clients use, and how it is set; not its random draws."""
    server: Literal["curious", "malicious"] = "curious"
    """`"curious"` follows the protocol; `"malicious"` may send clients a network or weights of its own."""
    sums: bool = False
    """Whether the server sees only the sum of each round's updates, as under secure aggregation, whatever the
    defense."""

    @model_validator(mode="before")
    @classmethod
    def _from_level(cls, data: Any) -> Any:
        return {**level(data), **data} if isinstance(data, dict) else data


class ThreatVariant(Threat):
    """Every attack runs under `[threat]` and under each of these as well. Keys are those of `[threat]`, which
    hold unless given; an entry with a `level` of its own starts from that level."""

    label: Name = ""
    """How reports and files call it; the level unless given."""

    @property
    def alone(self) -> Threat:
        """The threat without its label."""
        return Threat(**{key: getattr(self, key) for key in Threat.model_fields})


def level(table: dict[str, Any]) -> dict[str, Any]:
    """What the level of a table grants; nothing for one that does not exist."""
    named = table.get("level", START)
    return next((dict(granted) for one, granted in LADDER.items() if one == named), {})


def entries(data: dict[str, Any]) -> list[Any]:
    """`[[threats]]` as they came; empty where there are none."""
    found = data.get("threats")
    return list(found) if isinstance(found, list | tuple) else []


def merged(data: dict[str, Any]) -> list[Any]:
    """Each entry with its label and what it takes over from `[threat]`; what is no table stays as it is."""
    shared = data.get("threat")
    shared = shared if isinstance(shared, dict) else {}
    return [over(shared, one) if isinstance(one, dict) else one for one in entries(data)]


def over(shared: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """An entry over the `[threat]` that it starts from; its own level takes the place of that knowledge."""
    if "level" in entry:
        shared = {key: value for key, value in shared.items() if key not in LADDER[START]}
        return {"label": entry["level"], **shared, **entry}
    return {**shared, **entry}


def plain(whole: dict[str, Any]) -> dict[str, Any]:
    """A whole threat as a table: its level, and what differs from that level's."""
    usual = {key: field.default for key, field in Threat.model_fields.items()} | level(whole)
    return {key: value for key, value in whole.items() if key in ("label", "level") or value != usual[key]}


def distinct(whole: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The entry from which `merged` makes `whole`: its label, and what differs from `[threat]`."""
    if whole["level"] == shared["level"]:
        return {key: value for key, value in whole.items() if key == "label" or value != shared[key]}
    manners = {key: whole[key] for key in ("server", "sums") if whole[key] != shared[key]}
    return plain(whole | {"server": "curious", "sums": False}) | manners
