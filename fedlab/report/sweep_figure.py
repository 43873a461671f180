"""Small multiples of a sweep: one axis runs along each panel, every combination of the others is a panel.

Leakage above, accuracy beneath. Seeds share a panel: each is a dot, the line goes through their means.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab.report.figures import CEILING_DB
from fedlab.report.reading import decibel, percent
from fedlab.report.svg import LINE, MUTED, PAPER, SERIES, inline
from fedlab.report.sweep_words import called

Row = dict[str, Any]
PANEL = (4.1, 4.3)
"""Inches of one panel."""
MOST_PANELS = 24
MARKS = ("o", "s", "D", "^", "v", "P")
DASHES = ((None, None), (5, 2), (2, 2), (6, 2, 2, 2), (1, 1), (8, 3))
HEADROOM = 4.0


def along(axes: list[Row]) -> Row | None:
    """The axis that runs along the panels: the first of numbers, else the first, seeds last; numbers grow."""
    turned = [axis for axis in axes if len(axis["values"]) > 1] or axes
    plain = [axis for axis in turned if not _seeds(axis)]
    axis = next((axis for axis in plain if axis["numbers"]), next(iter(plain or turned), None))
    if axis is None or not axis["numbers"]:
        return axis
    pairs = sorted(zip(axis["values"], axis["words"], strict=True), key=lambda pair: pair[0])
    return {**axis, "values": [value for value, _ in pairs], "words": [word for _, word in pairs]}


def series(data: Row) -> list[str]:
    """What has a line of its own in each panel: strategies, defenses and client modes."""
    rows = [row for cell in data["cells"] for row in cell["rows"]]
    return list(dict.fromkeys(called(row, rows) for row in rows))


def panels(data: Row) -> tuple[list[tuple[str, Markup]], int]:
    """(title, figure) of each panel, and how many were left out."""
    axis = along(data["axes"])
    if axis is None or not any(cell["rows"] for cell in data["cells"]):
        return [], 0
    facets = [one for one in data["axes"] if one["key"] != axis["key"] and not _seeds(one)]
    shown = list(product(*(range(len(one["values"])) for one in facets)))
    names, top = series(data)[: len(MARKS)], _top(data)
    drawn = []
    for number, places in enumerate(shown[:MOST_PANELS], start=1):
        chosen = {one["key"]: one["values"][at] for one, at in zip(facets, places, strict=True)}
        cells = [
            c for c in data["cells"] if all(c["settings"][key] == value for key, value in chosen.items())
        ]
        title = ", ".join(f"{one['name']} {one['words'][at]}" for one, at in zip(facets, places, strict=True))
        drawn.append((title, _panel(f"sweep-{number}", title, axis, cells, names, data, top)))
    return drawn, len(shown) - len(drawn)


def _panel(
    name: str, title: str, axis: Row, cells: list[Row], names: list[str], data: Row, top: float
) -> Markup:
    rows = [row for cell in data["cells"] for row in cell["rows"]]
    lines = {
        one: [(axis["values"].index(cell["settings"][axis["key"]]), row) for cell in cells
              for row in cell["rows"] if called(row, rows) == one]
        for one in names
    }  # fmt: skip

    def draw(figure: Figure) -> None:
        leak, use = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for place, one in enumerate(names):
            _line(leak, lines[one], "psnr_median", "psnr_ci95", 1.0, top, place, len(names), axis)
            _line(use, lines[one], "accuracy", "accuracy_ci95", 100.0, 100.0, place, len(names), axis)
        _control(leak, lines, top)
        thresholds = {cell["threshold_db"] for cell in cells} - {None}
        for value in thresholds:
            leak.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        _scale(leak, 0.0, top + 1.5, "PSNR (dB)")
        if top == CEILING_DB:
            leak.set_yticks(range(0, 61, 20), ["0", "20", "40", "60+"])
        _scale(use, _floor(data), 102.0, "accuracy (%)")
        use.set_xticks(range(len(axis["values"])), [_cut(word) for word in axis["words"]])
        use.set_xlim(-0.5, len(axis["values"]) - 0.5)
        use.set_xlabel(axis["name"])

    return inline(name, f"{title or 'All cells'}. {_spoken(axis, lines)}", PANEL, draw)


def _line(
    axes: Axes,
    found: list[tuple[int, Row]],
    key: str,
    bounds: str,
    scale: float,
    top: float,
    place: int,
    count: int,
    axis: Row,
) -> None:
    """One series: a dot per cell, intervals where a cell stands alone, a line through the means."""
    shift = 0.1 * (place - (count - 1) / 2)
    style: dict[str, Any] = {"color": SERIES[place], "marker": MARKS[place]}
    means = []
    for at in range(len(axis["values"])):
        here = [row for where, row in found if where == at and row[key] is not None]
        if not here:
            continue
        values = [min(scale * row[key], top) for row in here]
        means.append((at + shift, sum(values) / len(values)))
        if len(here) > 1:
            axes.plot(
                [at + shift] * len(values), values, linestyle="none", markersize=3.5, alpha=0.5, **style
            )
        elif here[0][bounds] is not None:
            low, high = (min(scale * value, top) for value in here[0][bounds])
            axes.plot([at + shift] * 2, [low, high], color=SERIES[place], linewidth=1.6, alpha=0.6)
    axes.plot(
        [x for x, _ in means],
        [y for _, y in means],
        markersize=6.5,
        mec=PAPER,
        dashes=DASHES[place],
        linewidth=1.2 if axis["numbers"] else 0.0,
        **style,
    )


def _control(axes: Axes, lines: dict[str, list[tuple[int, Row]]], top: float) -> None:
    """What the attacks reach without any data of a client."""
    best: dict[int, float] = {}
    for found in lines.values():
        for at, row in found:
            if row["control"] is not None:
                best[at] = max(best.get(at, 0.0), min(row["control"], top))
    for at, value in best.items():
        axes.fill_between([at - 0.5, at + 0.5], 0, value, color=LINE, alpha=0.45, linewidth=0)


def _scale(axes: Axes, low: float, high: float, label: str) -> None:
    axes.set_ylim(low, high)
    axes.yaxis.grid(True, color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_ylabel(label)
    axes.tick_params(axis="x", length=0)


def _top(data: Row) -> float:
    """One scale for all panels."""
    values = [0.0]
    for cell in data["cells"]:
        values += [cell["threshold_db"] or 0.0]
        for row in cell["rows"]:
            values += [row["psnr_median"] or 0.0, *(row["psnr_ci95"] or ())]
    return min(CEILING_DB, max(values) + HEADROOM)


def _floor(data: Row) -> float:
    values = [
        100 * value
        for cell in data["cells"]
        for row in cell["rows"]
        if row["accuracy"] is not None
        for value in (row["accuracy_ci95"] or [row["accuracy"]])
    ]
    return max(0.0, min(values, default=0.0) - 5.0)


def _seeds(axis: Row) -> bool:
    return axis["key"] in ("seed", "seeds")


def _cut(text: str) -> str:
    return text if len(text) <= 14 else text[:13] + "…"


def _spoken(axis: Row, lines: dict[str, list[tuple[int, Row]]]) -> str:
    """What a screen reader says of a panel."""
    return "; ".join(
        f"{axis['name']} {axis['words'][at]}{f', {name}' if name else ''}: {decibel(row['psnr_median'])},"
        f" accuracy {percent(row['accuracy'], 1)}"
        for name, found in lines.items()
        for at, row in found
    )
