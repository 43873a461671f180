"""The figures of a comparison: accuracy by round, and leakage against utility, of all runs over each other.

A run keeps its colour in all of them, and its dashes in the first; in the second its letter stands at each
mark, so that none of it rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlab.report.compare_sides import LETTERS, Row
from fedlab.report.fleet_figures import colour, dashes
from fedlab.report.knowledge import CEILING_DB
from fedlab.report.labels import Box, placed
from fedlab.report.reading import NEAR_IDENTICAL_DB, decibel, mode_word, panel, percent
from fedlab.report.svg import INK, LINE, MUTED, PAPER, inline

COURSE = (4.1, 2.75)
TRADE = (7.6, 4.6)
"""Inches."""
FRAME = (0.085, 0.13, 0.895, 0.84)
"""Left, bottom, width, height of the axes, as shares of the figure."""
FONT = 9.5
LONGEST = 28
"""Letters of a label."""
MOST_LABELS = 60
"""Marks that are named; more would cover each other."""


def course(name: str, row: Row, letters: Sequence[str]) -> Markup:
    """Test accuracy by round of one row, a line per run and seed."""
    lines = [(at, one["points"]) for at, run in enumerate(row["runs"]) for one in run or []]

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for at, points in lines:
            x, y = [one[0] for one in points], [100 * one[1] for one in points]
            axes.plot(x, y, color=colour(at), dashes=dashes(at) or (None, None), linewidth=1.7, alpha=0.85)
            axes.plot(x[-1:], y[-1:], "o", color=colour(at), markersize=4.5)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("round")
        axes.set_ylabel("test accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    ends = "; ".join(
        f"{letters[at]}: {percent(points[-1][1], 1)} after round {points[-1][0]}" for at, points in lines
    )
    return inline(name, f"Test accuracy by round. {ends}", COURSE, draw)


def tradeoffs(data: Row) -> list[Row]:
    """(strategy, client_mode, figure) of each panel; none without both accuracy and an attack's images."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in data["tradeoff"]:
        panels.setdefault(panel(row), []).append(row)
    return [
        {"strategy": strategy, "client_mode": mode, "picture": _trade(f"tradeoff-{number}", rows, data)}
        for number, ((strategy, mode), rows) in enumerate(panels.items(), start=1)
    ]


def _trade(name: str, rows: list[Row], data: Row) -> Markup:
    marks = [(at, row["defense"], one) for row in rows for at, one in enumerate(row["runs"]) if one]
    threshold = data["runs"][0]["threshold_db"]

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes: Axes = figure.add_axes(FRAME)
        _frame(axes, [one for _, _, one in marks])
        controls = [one["control"] for _, _, one in marks if one["control"] is not None]
        if controls:
            axes.axhspan(0, max(controls), color=LINE, alpha=0.4, linewidth=0)
        for value in (threshold, NEAR_IDENTICAL_DB):
            axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for row in rows:
            _moves(axes, row["runs"])
        for at, _, one in marks:
            _mark(axes, at, one)
        if len(marks) <= MOST_LABELS:
            _names(figure, axes, marks)

    where = f"clients in {mode_word(rows[0]['client_mode'])}"
    told = "; ".join(
        f"{LETTERS[at]} {defense}: accuracy {percent(one['accuracy'], 1)}, {one['attack']} reaches"
        f" {decibel(one['psnr_median'])}"
        for at, defense, one in marks
    )
    return inline(name, f"Leakage against accuracy, {where}. {told}", TRADE, draw)


def _frame(axes: Axes, marks: list[Row]) -> None:
    bounds = [100 * one for row in marks for one in (row["accuracy_ci95"] or [row["accuracy"]])]
    room = max(max(bounds) - min(bounds), 4.0) * 0.16
    axes.set_xlim(max(min(bounds) - room, -2.0), min(max(bounds) + room, 103.0))
    axes.set_ylim(0, CEILING_DB + 5)
    axes.set_yticks(range(0, 61, 10), [*map(str, range(0, 60, 10)), "60+"])
    axes.set_xlabel("test accuracy (%)  → better for everyone", fontsize=FONT)
    axes.set_ylabel("strongest attack, median PSNR (dB)  ← better for clients", fontsize=FONT)


def _moves(axes: Axes, runs: Sequence[Row | None]) -> None:
    """A thread from the first run's mark to what became of the same row in the others."""
    base = runs[0]
    for one in runs[1:]:
        if base is not None and one is not None:
            (x, y), (to_x, to_y) = _at(base), _at(one)
            axes.plot([x, to_x], [y, to_y], color=MUTED, linewidth=0.8, alpha=0.8, zorder=1)


def _mark(axes: Axes, at: int, one: Row) -> None:
    x, y = _at(one)
    if one["accuracy_ci95"]:
        ends = [100 * bound for bound in one["accuracy_ci95"]]
        axes.plot(ends, [y, y], color=colour(at), linewidth=1.1, alpha=0.5)
    shape = "D" if one["undefended"] else "s" if one["epsilon"] is not None else "o"
    axes.plot([x], [y], shape, color=colour(at), markersize=8.5, mec=PAPER, mew=0.8, zorder=3)


def _names(figure: Figure, axes: Axes, marks: list[tuple[int, str, Row]]) -> None:
    wide, high = figure.get_size_inches() * 72
    left, bottom, width, height = FRAME
    frame = Box(left * wide + 2, bottom * high + 2, (left + width) * wide - 2, (bottom + height) * high - 2)
    points = [axes.transData.transform(_at(one)) for _, _, one in marks]
    texts = [_cut(f"{LETTERS[at]} {defense}") for at, defense, _ in marks]
    boxes = placed([(float(x), float(y)) for x, y in points], texts, frame, size=FONT)
    for (x, _), text, box in zip(points, texts, boxes, strict=True):
        side = "left" if box.left >= x else "right" if box.right <= x else "center"
        place = {"left": box.left, "right": box.right, "center": box.middle[0]}[side]
        figure.text(place / wide, box.middle[1] / high, text, color=INK, fontsize=FONT, ha=side,
                    va="center_baseline")  # fmt: skip


def _at(one: Row) -> tuple[float, float]:
    return 100 * float(one["accuracy"]), min(float(one["psnr_median"]), CEILING_DB)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
