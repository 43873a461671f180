"""The table [devices] of a scenario."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlab.scenario.sections import NotNegative, Plugin, PluginOrName, Positive, Section


class Availability(Section):
    """When a device can work: `up` seconds of every `period`, each device with a shift of its own."""

    period: Positive = 86400.0
    """Length of a day, in virtual seconds."""
    up: Positive = 28800.0
    """For how many of them a device is there; work that is sent at another time waits."""


class Devices(Section):
    """How long the simulated devices take, in virtual seconds. All of it is drawn from the seed."""

    time: PluginOrName = Plugin(name="constant")
    """How the computing times of devices are spread: `fedlab list times`. A device's own is drawn once."""
    per_example: NotNegative = 0.0
    """Virtual seconds per record that a client works through, on a device of median speed; beside `time`.
    A device that is twice as slow there is twice as slow here."""
    download_mbps: Positive | None = None
    """Megabits a second at which a device receives the model; no time unless given."""
    upload_mbps: Positive | None = None
    """Megabits a second at which a device sends its update, which is taken to be as large as the model; no
    time unless given."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a device falls silent while it works on a message: its work is lost, and the server
    knows when the reply would have been due."""
    availability: Availability | None = None
    """When devices can work; always unless given."""
    trace: str | None = None
    """CSV file with the columns `device` and `seconds`, one row per device, used in turn when there are more
    clients than rows; instead of `time`. As for data sets, the path is seen from the current directory."""
