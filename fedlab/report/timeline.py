"""A window of the fleet's time: which trips to draw, in rows of devices from the fastest to the slowest."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from fedlab.report.course import duration, unit_of
from fedlab.report.svg import BAD, CALM, INK, LINE, MUTED, inline

Row = dict[str, Any]
ROWS = 40
"""Devices at most that a picture shows."""
LINES = 25
"""Versions at most that get a line through the picture; more get a tick above it."""
PALER = ((1, 1.0), (3, 0.78), (7, 0.58), (15, 0.42))
"""How strongly a trip is drawn whose staleness is below so much; 0.3 beyond."""


def timeline(window: Row | None, end: float) -> Row | None:
    """The trips that start in the first `end` seconds, of at most `ROWS` devices; None if there are none.

    The devices that took part are cut into as many groups by speed, each of which is stood for by the
    device that made the most trips: two trips on one line say more than one.
    """
    if not window:
        return None
    trips = [_trip(one) for one in window["trips"] if float(one[1]) < end]
    if not trips or end <= 0.0:
        return None
    seconds = {int(device): float(taken) for device, taken in window.get("devices") or []}
    own: dict[int, list[Row]] = {}
    for device, trip in trips:
        own.setdefault(device, []).append(trip)
    order = sorted(own, key=lambda device: (seconds.get(device, _pace(own[device])), device))
    rows = min(ROWS, len(order))
    groups = [order[i * len(order) // rows : (i + 1) * len(order) // rows] for i in range(rows)]
    shown = [max(group, key=lambda device: len(own[device])) for group in groups]
    started: dict[int, float] = {}
    for _, trip in trips:
        started[trip["round"]] = min(trip["start"], started.get(trip["round"], trip["start"]))
    return {
        "end": end,
        "devices": len(order),
        "outcomes": dict(sorted(Counter(trip["outcome"] for _, trip in trips).items())),
        "versions": sorted(started.values()),
        "rows": [
            {"device": device, "seconds": seconds.get(device), "trips": own[device]} for device in shown
        ],
    }


def _trip(one: list[Any]) -> tuple[int, Row]:
    device, start, end, number, outcome = one
    back = None if end is None else float(end)
    return int(device), {"start": float(start), "end": back, "round": int(number), "outcome": str(outcome)}


def _pace(trips: list[Row]) -> float:
    """Seconds that a device takes, as far as its trips tell: of one that never came back, nothing."""
    taken = [one["end"] - one["start"] for one in trips if one["end"] is not None]
    return sum(taken) / len(taken) if taken else float("inf")


def picture(name: str, row: Row) -> Markup | None:
    """Trips as bars, a line per device; None where the run kept none."""
    shown = row["timeline"]
    if shown is None:
        return None
    lines, end, versions = shown["rows"], shown["end"], shown["versions"]
    scale, unit = unit_of(end / 2.0, "seconds")

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for place, line in enumerate(lines):
            for trip in line["trips"]:
                back = end if trip["end"] is None else min(trip["end"], end)
                _bar(axes, -place, trip, back, _staleness(trip, back, versions))
        for start in versions[1:]:
            if len(versions) <= LINES:
                axes.axvline(start, color=INK, linewidth=0.6, alpha=0.45, zorder=0)
            axes.plot([start, start], [1.0, 1.9], color=INK, linewidth=0.7, alpha=0.8, solid_capstyle="butt")
        axes.set_xlim(0.0, end)
        axes.set_ylim(0.4 - len(lines), 2.0)
        known = lines[0]["seconds"] is not None
        ticks = sorted({0, (len(lines) - 1) // 2, len(lines) - 1})
        axes.set_yticks(
            [-place for place in ticks],
            [duration(lines[place]["seconds"]) if known else f"{place + 1}" for place in ticks],
        )
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MultipleLocator(scale * _step(end / scale)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:g}")
        axes.set_xlabel(unit)

    counts = ", ".join(f"{count} {outcome}" for outcome, count in shown["outcomes"].items())
    told = f"Timeline of {row['name']}, 0 to {end:.3g} s: {len(lines)} of {shown['devices']} devices"
    told += f" that took part; trips of all of them: {counts}; {len(versions)} versions of the model"
    return inline(name, told, (8.2, 0.75 + 0.105 * (len(lines) + 2)), draw)


def _step(length: float) -> float:
    """1, 2 or 5 times a power of ten, which divides `length` into four to ten parts."""
    power = 10.0 ** math.floor(math.log10(length / 4.0))
    return max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= length / 4.0)


def _bar(axes: Axes, place: float, trip: Row, back: float, staleness: int) -> None:
    """One trip, by what became of it: filled and the paler the staler, or an outline."""
    style: dict[str, Any] = {"height": 0.74, "left": trip["start"], "linewidth": 0.7}
    width = back - trip["start"]
    if trip["outcome"] == "counted":
        strength = next((alpha for below, alpha in PALER if staleness < below), 0.3)
        axes.barh([place], [width], color=CALM, alpha=strength, **style)
    elif trip["outcome"] == "under way":
        axes.barh([place], [width], color=LINE, **style)
    elif trip["outcome"] == "failed":
        axes.barh([place], [width], facecolor="none", edgecolor=MUTED, linestyle=(0, (2, 1)), **style)
    else:  # aborted, or turned away
        axes.barh([place], [width], facecolor="none", edgecolor=BAD, **style)
    if trip["end"] is not None and trip["end"] <= back:
        axes.plot([back, back], [place - 0.37, place + 0.37], color=INK, linewidth=0.5, alpha=0.6)


def _staleness(trip: Row, back: float, versions: list[float]) -> int:
    """Versions that were made between the trip's start and its end."""
    return max(0, bisect_left(versions, back) - bisect_left(versions, trip["start"]) - 1)
