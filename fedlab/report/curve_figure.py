"""The figure of how training went: accuracy, loss or ε by round, or by what was spent, a line per model."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlab.report.course import unit_of
from fedlab.report.fleet_figures import colour, dashes
from fedlab.report.reading import key, namer
from fedlab.report.rundir import Run, malformed
from fedlab.report.svg import inline

Row = dict[str, Any]
Line = tuple[str, int, list[tuple[float, float]]]
"""(name, which row of the legend, its points as (round, value))."""

LABELS = {
    "accuracy": "test accuracy (%)",
    "loss": "test loss",
    "train_loss": "loss in training",
    "epsilon": "ε spent",
}
AXES = ("round", "seconds", "uploads", "bytes")
"""What a curve may run against; all but rounds need a report with a section on the fleet."""
SIZE = (6.4, 3.6)
"""Inches, less the legend's."""
LONGEST = 40
"""Letters of a name."""


def curve(run: Run, data: Row, of: str, against: str) -> tuple[Markup | None, str]:
    """(figure, its words) of one of `LABELS` against one of `AXES`; no figure if nothing was measured."""
    if against != "round":
        lines = _fleet(data, of, against)
    else:
        lines = _spent(data) if of == "epsilon" else _measured(run, of)
    if not lines:
        return None, f"no {LABELS[of].removesuffix(' (%)')} against {against} was measured"
    scale = 100.0 if of == "accuracy" else 1.0
    size, unit = (
        (1.0, "round") if against == "round" else unit_of(max(p[-1][0] for _, _, p in lines), against)
    )
    label = f"time ({unit})" if against == "seconds" else f"bytes ({unit})" if against == "bytes" else unit
    names = list(dict.fromkeys((name, place) for name, place, _ in lines))

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for _, place, points in lines:
            axes.plot(
                [x / size for x, _ in points],
                [scale * y for _, y in points],
                color=colour(place),
                dashes=dashes(place) or (None, None),
                linewidth=1.7,
                marker="o" if len(points) == 1 else None,
            )
        for name, place in names:
            axes.plot([], [], color=colour(place), dashes=dashes(place) or (None, None), label=name)
        axes.set_xlabel(label)
        axes.set_ylabel(LABELS[of])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=against == "round"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.legend(loc="outside upper left", ncols=min(len(names), 2), frameon=False)

    words = f"{LABELS[of]} against {label}. " + "; ".join(
        f"{name}: {scale * points[-1][1]:.3g} at {points[-1][0] / size:.3g}" for name, _, points in lines
    )
    height = SIZE[1] + 0.25 * ((len(names) + 1) // 2)
    return inline(f"curve-{of}-{against}", words, (SIZE[0], height), draw), words


def _measured(run: Run, of: str) -> list[Line]:
    """A line per trained model: seeds of the same setting look alike."""
    name = namer(run.cells)
    places = {axes: place for place, axes in enumerate(dict.fromkeys(map(key, run.cells)))}
    lines = []
    for cell in run.cells:
        with malformed("metrics.json"):
            rounds = (run.metrics.get(cell["name"]) or {}).get("rounds") or []
            points = [(float(one["round"]), float(one[of])) for one in rounds if one.get(of) is not None]
        if points:
            lines.append((_cut(name(cell)), places[key(cell)], points))
    return lines


def _spent(data: Row) -> list[Line]:
    """What the report knows of ε by round, of the trained model that spent most."""
    name = namer(data["run"]["cells"])
    return [
        (_cut(name(row)), place, [(float(x), float(y)) for x, y in row["course"]])
        for place, row in enumerate(data["proofs"])
        if row["course"]
    ]


def _fleet(data: Row, of: str, against: str) -> list[Line]:
    """A line per seed of each strategy, from the report's section on the fleet."""
    lines = []
    for place, row in enumerate((data["fleet"] or {}).get("rows", [])):
        for course in row["courses"]:
            points = [(float(p[against]), float(p[of])) for p in course["points"] if p.get(of) is not None]
            if points:
                lines.append((_cut(row["name"]), place, points))
    return lines


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
