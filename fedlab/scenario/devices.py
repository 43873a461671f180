"""The table [devices] of a scenario, and its classes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlab.scenario.sections import NotNegative, Plugin, PluginOrName, Positive, Section

PERIOD, UP = 86400.0, 28800.0
"""A day, and how much of it a device is there, where nothing else is said."""

ClassName = Annotated[
    str,
    Field(
        pattern="^[A-Za-z0-9_]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_.-])?$",
        json_schema_extra={"x-words": "1 to 64 letters, digits, spaces and . _ -, no leading . or -"},
    ),
]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Availability(Section):
    """When a device can work: `up` seconds of every `period`, each device with a shift of its own; or, with
    `trace`, in the intervals of a file. Work that is sent at another time waits."""

    period: Positive | None = None
    """Length of a day, in virtual seconds; 86,400 unless given. With `trace`: after how many of them the
    trace begins again; never unless given."""
    up: Positive | None = None
    """For how many of them a device is there; 28,800 unless given."""
    phase_spread: Share | None = None
    """Share of the day over which the devices' shifts are spread; 1 unless given, so that equally many are
    there at any time. At 0 all come and go together, as in one time zone; below 1 − up / period nobody is
    there for a part of each day."""
    check_in: Annotated[float, Field(ge=0.01, le=1)] | None = None
    """Probability that a device turns up in a window at all, drawn for each; 1 unless given."""
    trace: str | None = None
    """CSV file with the columns `device`, `start` and `end`, one line per interval; devices take its devices
    in turn. With `devices.trace` the names are those of that file. As for data sets, the path is seen from
    the current directory."""


class DeviceClass(Section):
    """A share of the devices with keys of its own; a key that is left out is that of `[devices]`. Which class
    a device is of, the seed decides."""

    name: ClassName
    """How reports call it."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the devices; those of all classes sum to 1."""
    time: PluginOrName | None = None
    """As in `[devices]`; also in place of its `trace`."""
    per_example: NotNegative | PluginOrName | None = None
    """As in `[devices]`."""
    redraw: bool | None = None
    """As in `[devices]`."""
    download_mbps: Positive | None = None
    """As in `[devices]`."""
    upload_mbps: Positive | None = None
    """As in `[devices]`."""
    dropout: Dropout | None = None
    """As in `[devices]`."""
    availability: Availability | None = None
    """As in `[devices]`, as a whole: what it leaves out has its default. Always, where `up` is the period."""


class Devices(Section):
    """How long the simulated devices take, in virtual seconds. All of it is drawn from the seed."""

    time: PluginOrName = Plugin(name="constant")
    """How the computing times of devices are spread: `fedlab list times`. A device's own is drawn once."""
    per_example: NotNegative | PluginOrName = 0.0
    """Virtual seconds per record that a client works through, beside `time`. A number is that of a device of
    median speed: one that is twice as slow there is twice as slow here. A spread (`fedlab list times`) gives
    each device seconds per record of its own, from the same draw as its `time`."""
    redraw: bool = False
    """Whether a device's speed is drawn anew for each message instead of once."""
    download_mbps: Positive | None = None
    """Megabits a second at which a device receives the model; no time unless given."""
    upload_mbps: Positive | None = None
    """Megabits a second at which a device sends its update, which is taken to be as large as the model; no
    time unless given."""
    dropout: Dropout = 0.0
    """Probability that a device falls silent while it works on a message: its work is lost, and the server
    knows when the reply would have been due."""
    availability: Availability | None = None
    """When devices can work; always unless given."""
    trace: str | None = None
    """CSV file with the columns `device` and `seconds`, one row per device, used in turn when there are more
    clients than rows; instead of `time`. As for data sets, the path is seen from the current directory."""
    classes: Annotated[tuple[DeviceClass, ...], Field(strict=False)] = ()
    """Each `[[devices.classes]]` is a share of the devices that differs from the others."""

    @property
    def kinds(self) -> list[Devices]:
        """[devices] as each class has it; itself where there are no classes."""
        return [self._as(one) for one in self.classes] or [self]

    def _as(self, one: DeviceClass) -> Devices:
        keys = set(DeviceClass.model_fields) - {"name", "share"}
        own = {key: getattr(one, key) for key in keys if getattr(one, key) is not None}
        return self.model_copy(update={"classes": (), **({"trace": None} if "time" in own else {}), **own})

    @property
    def files(self) -> list[str]:
        """The paths of all traces, each once."""
        hours = [kind.availability.trace for kind in self.kinds if kind.availability is not None]
        named = [*(kind.trace for kind in self.kinds), *hours]
        return list(dict.fromkeys(path for path in named if path is not None))
