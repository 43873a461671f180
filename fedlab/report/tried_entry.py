"""One thing that was tried on an app, as app.json tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlab.report.tried_code import whole


@dataclass(frozen=True)
class Layer:
    """A layer that a try changed; `before` and `after` as torch shows them, "" for none."""

    name: str
    before: str
    after: str

    @property
    def inserted(self) -> bool:
        """Whether `after` stands in front of the layer, and not in its place."""
        return not self.before or (self.after.startswith("Dropout") and not self.before.startswith("Dropout"))


@dataclass(frozen=True)
class Network:
    """The class of a network, where it is written, and its layers that changed."""

    name: str
    file: str
    line: int | None
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Try:
    """A defense on an app.

    Attributes:
        label: what the run calls it; name, params: the plugin, and how it was set.
        acts: on what: updates, network, run config, ...
        why: reason of what failed; guarantee: in words, or "".
        config: run-config key -> (before, after).
        notes: what of the app's own training was not under it.
        client, server: files of the ClientApp and the ServerApp, as the app calls them.
    """

    label: str
    name: str
    params: Mapping[str, Any]
    acts: str
    failed: bool
    why: str
    guarantee: str
    network: Network | None
    config: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...]
    client: str
    server: str

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Try:
        """As app.json has it; what is missing or of another type raises KeyError, TypeError or ValueError."""
        where = found.get("where") or {}
        return cls(
            label=str(found["label"]),
            name=str(found["name"]),
            params={str(key): value for key, value in (found.get("params") or {}).items()},
            acts=str(found.get("acts") or ""),
            failed=found["status"] != "tried",
            why=str(found.get("why") or ""),
            guarantee=str(found.get("guarantee") or ""),
            network=_network(found.get("network")),
            config={str(key): _pair(value) for key, value in (found.get("config") or {}).items()},
            notes=tuple(str(one) for one in found.get("notes") or ()),
            client=_line(where.get("client")),
            server=_line(where.get("server")),
        )


def _network(found: Mapping[str, Any] | None) -> Network | None:
    if not found:
        return None
    return Network(
        _line(found.get("class")),
        _line(found.get("file")),
        None if found.get("line") is None else whole(found["line"], low=1),
        tuple(
            Layer(_line(one["layer"]), str(one.get("before") or ""), str(one.get("after") or ""))
            for one in found.get("changes") or []
        ),
    )


def _pair(value: Any) -> tuple[Any, Any]:
    before, after = value
    return before, after


def _line(value: Any) -> str:
    """A name on one line: it will stand beside code."""
    return " ".join(str(value or "").split())
