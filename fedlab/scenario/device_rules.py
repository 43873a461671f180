"""What one key of [devices] demands of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab.scenario.devices import PERIOD, UP
from fedlab.scenario.given import Mistake, is_number, table
from fedlab.scenario.places import Path

WINDOWS = ("up", "phase_spread", "check_in")
"""Keys of an availability that say when windows are; a trace says it itself."""


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """All broken rules, each with the path that should change."""
    devices = table(data, "devices")
    found = [*_times(devices), *_classes(devices)]
    for path, one in kinds(data):
        found += _availability(path, one)
    return found


def kinds(data: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(path, table) of [devices] and of each of its classes."""
    devices = table(data, "devices")
    yield ("devices",), devices
    listed = devices.get("classes")
    for index, one in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(one, dict):
            yield ("devices", "classes", index), one


def _times(devices: dict[str, Any]) -> Iterator[Mistake]:
    if "trace" in devices and "time" in devices:
        yield (
            ("devices", "trace"),
            "trace and time are both given; expected one: measured times, or a spread to draw them from",
        )


def _classes(devices: dict[str, Any]) -> Iterator[Mistake]:
    listed = devices.get("classes")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        return
    names = [one.get("name") for one in listed]
    for index, name in enumerate(names):
        if isinstance(name, str) and name in names[:index]:
            yield (
                ("devices", "classes", index, "name"),
                f'there is already a class "{name}"; expected a name of its own',
            )
    shares = [one.get("share") for one in listed]
    numbers = [share for share in shares if is_number(share) and share <= 1]
    from fedlab.runtime.classes import sums_to_one  # which takes a while

    if len(numbers) == len(shares) and not sums_to_one(numbers):
        yield (
            ("devices", "classes"),
            f"the shares {', '.join(f'{one:g}' for one in numbers)} sum to {sum(numbers):.6g}; expected 1",
        )


def _availability(path: Path, one: dict[str, Any]) -> Iterator[Mistake]:
    given = table(one, "availability")
    here = (*path, "availability")
    if "trace" in given:
        for key in (key for key in WINDOWS if key in given):
            yield (
                (*here, key),
                f"{key} and trace are both given; expected one: windows that repeat, or intervals of a file",
            )
        return
    period, up = given.get("period", PERIOD), given.get("up", UP)
    if is_number(period) and is_number(up) and up > period:
        where = "up" if "up" in given else "period"
        yield (
            (*here, where),
            f"up is {up:g} and period {period:g}; expected a device to be there for the period at most",
        )
