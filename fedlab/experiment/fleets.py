"""The fleet that [devices] describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlab.files import sha256
from fedlab.runtime.availability import Availability, Presence
from fedlab.runtime.classes import DeviceClass, MixedFleet
from fedlab.runtime.devices import Fleet, SimulatedFleet
from fedlab.runtime.times import TIMES, ComputingTime
from fedlab.runtime.traces import read_availability, read_durations
from fedlab.scenario import Plugin
from fedlab.scenario.devices import PERIOD, UP, Devices


def fleet(devices: Devices, examples: Sequence[int]) -> Fleet:
    """The simulated devices; `examples` are the records that each works through in a round.

    Raises:
        DataError, UsageError: a trace that cannot be read, or is not as expected.
    """
    members = [_alike(kind, examples) for kind in devices.kinds]
    if not devices.classes:
        return members[0]
    classes = zip(devices.classes, members, strict=True)
    return MixedFleet([DeviceClass(one.name, one.share, member) for one, member in classes])


def trace_hashes(devices: Devices) -> dict[str, str]:
    """sha256 of each trace that a scenario names, by its path.

    Raises:
        OSError: one cannot be read.
    """
    return {path: sha256(Path(path).expanduser().read_bytes()) for path in devices.files}


def _alike(devices: Devices, examples: Sequence[int]) -> SimulatedFleet:
    """Devices that all are of the same class."""
    durations = None if devices.trace is None else read_durations(devices.trace)
    per_example = devices.per_example
    return SimulatedFleet(
        count=len(examples),
        time=_spread(devices.time) if durations is None else tuple(durations.values()),
        per_example=_spread(per_example) if isinstance(per_example, Plugin) else per_example,
        examples=examples,
        download_mbps=devices.download_mbps,
        upload_mbps=devices.upload_mbps,
        dropout=devices.dropout,
        availability=_presence(devices, durations),
        redraw=devices.redraw,
    )


def _spread(plugin: Plugin) -> ComputingTime:
    return TIMES[plugin.name](**plugin.params)


def _presence(devices: Devices, durations: dict[str, float] | None) -> Presence | None:
    hours = devices.availability
    if hours is None:
        return None
    if hours.trace is not None:
        return read_availability(hours.trace, period=hours.period, devices=durations)
    return Availability(
        PERIOD if hours.period is None else hours.period,
        UP if hours.up is None else hours.up,
        1.0 if hours.phase_spread is None else hours.phase_spread,
        1.0 if hours.check_in is None else hours.check_in,
    )
