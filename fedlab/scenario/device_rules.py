"""What one key of [devices] demands of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.scenario.devices import Availability
from fedlab.scenario.given import Mistake, is_number, table


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """All broken rules, each with the path that should change."""
    devices = table(data, "devices")
    return [*_times(devices), *_availability(devices)]


def _times(devices: dict[str, Any]) -> Iterator[Mistake]:
    if "trace" in devices and "time" in devices:
        yield (
            ("devices", "trace"),
            "trace and time are both given; expected one: measured times, or a spread to draw them from",
        )


def _availability(devices: dict[str, Any]) -> Iterator[Mistake]:
    given = table(devices, "availability")
    period, up = (given.get(key, Availability.model_fields[key].default) for key in ("period", "up"))
    if is_number(period) and is_number(up) and up > period:
        where = "up" if "up" in given else "period"
        yield (
            ("devices", "availability", where),
            f"up is {up:g} and period {period:g}; expected a device to be there for the period at most",
        )
