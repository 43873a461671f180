"""A message under way as a checkpoint keeps it: values in JSON, its records with a `storage.Writer`."""

from __future__ import annotations

import math
from typing import Any

from fedlab.runtime.flights import Flight
from fedlab.runtime.storage import Reader, Writer


def values_of(flight: Flight, writer: Writer) -> dict[str, Any]:
    """What `flight_of` makes the same flight of."""
    return {
        "due": _written(flight.due),
        "start": _written(flight.start),
        "sequence": flight.sequence,
        "device": flight.device,
        "message": None if flight.message is None else writer.message(flight.message),
        "reply": None if flight.reply is None else writer.message(flight.reply),
        "context": None if flight.context is None else writer.context(flight.context),
    }


def flight_of(values: dict[str, Any], reader: Reader) -> Flight:
    """The flight that these values were made of."""
    return Flight(
        _read(values["due"]),
        values["sequence"],
        values["device"],
        None if values["message"] is None else reader.message(values["message"]),
        None if values["reply"] is None else reader.message(values["reply"]),
        None if values["context"] is None else reader.context(values["context"]),
        start=_read(values["start"]),
    )


def _written(moment: float) -> float | None:
    """Virtual seconds in JSON, which knows no infinity."""
    return moment if moment < math.inf else None


def _read(moment: float | None) -> float:
    return math.inf if moment is None else float(moment)
