"""The spreads and the traces that [devices] and its classes name, tried before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.errors import FedlabError
from fedlab.scenario.device_rules import kinds
from fedlab.scenario.given import Mistake, is_number, table
from fedlab.scenario.places import Path

SPREADS = ("time", "per_example")
"""Keys at which a spread stands."""


def spread_paths(data: dict[str, Any]) -> list[Path]:
    """Where spreads may stand."""
    return [(*path, key) for path, _ in kinds(data) for key in SPREADS]


def traces(data: dict[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the files of computing times and of availability."""
    given = table(data, "devices").get("trace")
    hours = [(path, one, table(one, "availability")) for path, one in kinds(data)]
    hours = [(path, one, when) for path, one, when in hours if isinstance(when.get("trace"), str)]
    if not isinstance(given, str) and not hours:
        return
    from fedlab.runtime.traces import read_availability, read_durations

    durations = None
    try:
        durations = None if not isinstance(given, str) else read_durations(given)
    except FedlabError as error:
        yield ("devices", "trace"), str(error)
    for path, one, when in hours:
        period, names = when.get("period"), None if "time" in one else durations
        if period is not None and not is_number(period):
            continue
        try:
            read_availability(when["trace"], period=period, devices=names)
        except FedlabError as error:
            yield (*path, "availability", "trace"), str(error)
