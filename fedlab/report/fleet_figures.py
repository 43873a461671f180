"""Figures of the fleet: loss against what it cost, staleness, participation. From report.json alone.

A strategy keeps its colour and its dashes in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlab.report import timeline
from fedlab.report.course import unit_of
from fedlab.report.svg import INK, LINE, MUTED, SERIES, inline

Row = dict[str, Any]
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (7, 2, 2, 2), (9, 3), (1, 2))
"""Of each strategy's line, as lengths of strokes and gaps."""
PANEL = (4.1, 2.75)
"""Inches of one panel."""
FAR_APART = 5.0
"""Where one strategy needs so many times more than another, the axis is logarithmic."""
BARS = 40
"""Bars at most in a histogram."""


def panels(fleet: Row | None) -> list[Row]:
    """What the page shows of the fleet: for each defense and client mode, its rows and their figures."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in fleet["rows"] if fleet else []:
        groups.setdefault((row["defense"], row["client_mode"]), []).append(row)
    found = []
    for number, (who, rows) in enumerate(groups.items(), start=1):
        name = f"fleet-{number}"
        every = list(enumerate(rows))
        courses = [
            against(name, rows, spent, quality, fleet or {})
            for quality in ("loss", "accuracy")
            for spent in ("seconds", "uploads", "bytes")
        ]
        found.append(
            {
                "defense": who[0],
                "client_mode": who[1],
                "rows": rows,
                "series": [
                    (row["name"], place % len(SERIES) + 1, " ".join(f"{one:g}" for one in dashes(place)))
                    for place, row in every
                ],
                "courses": [one for one in courses if one is not None],
                "staleness": _shown((row, staleness(f"{name}-stale-{i}", i, row)) for i, row in every),
                "tenths": tenths(f"{name}-tenths", rows),
                "timelines": _shown((row, timeline.picture(f"{name}-time-{i}", row)) for i, row in every),
            }
        )
    return found


def _shown(pairs: Iterable[tuple[Row, Markup | None]]) -> list[tuple[Row, Markup]]:
    return [(row, picture) for row, picture in pairs if picture is not None]


def colour(place: int) -> str:
    """Of the strategy in the `place`-th row; from the seventh on they come again, with other dashes."""
    return SERIES[place % len(SERIES)]


def dashes(place: int) -> tuple[float, ...]:
    """Of the strategy in the `place`-th row."""
    return DASHES[(place + place // len(DASHES)) % len(DASHES)]


def against(name: str, rows: list[Row], spent: str, quality: str, fleet: Row) -> Markup | None:
    """`quality` (loss or accuracy) against what was `spent` (seconds, uploads or bytes), a line per seed."""
    lines = []
    for place, row in enumerate(rows):
        for course in row["courses"]:
            points = [(p[spent], p[quality]) for p in course["points"] if p[quality] is not None]
            if points:
                lines.append((place, points))
    if not lines:
        return None
    longest = [max(x for x, _ in points) for _, points in lines]
    far = min(longest) > 0.0 and max(longest) / min(longest) >= FAR_APART
    scale, unit = unit_of(max(longest), spent)
    clock = f"{'virtual ' if fleet['clock'] == 'virtual' else ''}time ({unit})"
    label = {"seconds": clock, "bytes": f"bytes ({unit})", "uploads": unit}[spent]
    percent = 100.0 if quality == "accuracy" else 1.0
    target = (fleet["target"] or {}).get(quality)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for place, points in lines:
            points = [(x, y) for x, y in points if x > 0.0 or not far]
            axes.plot(
                [x / scale for x, _ in points],
                [percent * y for _, y in points],
                color=colour(place),
                dashes=dashes(place) or (None, None),
                linewidth=1.7,
                alpha=1.0 if len(rows[place]["courses"]) == 1 else 0.75,
                marker="o" if len(points) == 1 else None,
            )
            axes.plot([points[-1][0] / scale], [percent * points[-1][1]], "o", color=colour(place), ms=4.5)
        if far:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0.0)
        if target is not None:
            axes.axhline(percent * float(target), color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.text(0.01, percent * float(target), "target", color=MUTED, fontsize=9, ha="left",
                      va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip
        axes.set_xlabel(label + (", logarithmic" if far else ""))
        axes.set_ylabel("test accuracy (%)" if quality == "accuracy" else "test loss")
        axes.yaxis.set_major_locator(MaxNLocator(5))

    ends = "; ".join(
        f"{rows[place]['name']}: {percent * points[-1][1]:.3g} after {points[-1][0] / scale:.3g} {unit}"
        for place, points in lines
    )
    return inline(f"{name}-{quality}-{spent}", f"{quality} against {label}. {ends}", PANEL, draw)


def staleness(name: str, place: int, row: Row) -> Markup | None:
    """How many uploads had which staleness, under one strategy; None for a synchronous one."""
    schedule = row["schedule"]
    if not schedule or not any(count for _, count in schedule["staleness"]):
        return None
    largest = schedule["staleness"][-1][0]
    width = math.ceil((largest + 1) / BARS)
    heights = [0] * (largest // width + 1)
    for value, count in schedule["staleness"]:
        heights[value // width] += count
    whole = sum(heights)
    mean, expected = schedule["mean_staleness"], schedule["expected_staleness"]

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        places = [width * bar + (width - 1) / 2 for bar in range(len(heights))]
        axes.bar(places, [100 * one / whole for one in heights], width=0.86 * width, color=colour(place))
        known = [("mean", mean["mean"] if mean else None, INK), ("M/K", expected, MUTED)]
        marks = [(label, value, shade) for label, value, shade in known if value is not None]
        for line, (label, value, shade) in enumerate(marks):
            axes.axvline(value, color=shade, linewidth=1.0, linestyle=(0, (4, 2 + 2 * line)))
            axes.text(0.98, 0.97 - 0.1 * line, f"{label} {value:.3g}", color=shade, ha="right", va="top",
                      transform=axes.transAxes)  # fmt: skip
        axes.set_xlabel("staleness: versions made meanwhile")
        axes.set_ylabel("uploads (%)")
        axes.set_xlim(-0.5 - 0.2 * width, largest + 0.5 + 0.2 * width)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    told = f"mean {mean['mean']:.3g}, " if mean else ""
    told += f"expected {expected:.3g}, " if expected is not None else ""
    return inline(
        name, f"Staleness of {whole} uploads under {row['name']}: {told}at most {largest}", PANEL, draw
    )


def tenths(name: str, rows: list[Row]) -> Markup | None:
    """Uploads of each tenth of the fleet by slowness, as multiples of a fair share; a bar per strategy."""
    known = [
        (place, row["tenths"]["of_fair_share"])
        for place, row in enumerate(rows)
        if row["tenths"] and row["tenths"]["of_fair_share"]
    ]
    if not known:
        return None

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        wide = 0.84 / len(known)
        for bar, (place, values) in enumerate(known):
            middles = [tenth - 0.42 + wide * (bar + 0.5) for tenth in range(len(values))]
            axes.bar(middles, values, width=0.92 * wide, color=colour(place))
        axes.axhline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.text(1.0, 1.0, "fair share", color=MUTED, fontsize=9, ha="right", va="bottom",
                  transform=axes.get_yaxis_transform())  # fmt: skip
        count = len(known[0][1])
        axes.set_xticks(range(count), ["fastest", *[f"{n}" for n in range(2, count)], "slowest"])
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("tenths of the fleet, by slowness")
        axes.set_ylabel("uploads (fair share = 1)")
        axes.set_xlim(-0.6, count - 0.4 + 0.9)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.grid(True, color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)

    told = "; ".join(
        f"{rows[place]['name']}: from {values[0]:.2f} (fastest) to {values[-1]:.2f} (slowest)"
        for place, values in known
    )
    return inline(
        name, f"Uploads by tenths of the fleet, as multiples of a fair share. {told}", (8.2, 2.9), draw
    )
