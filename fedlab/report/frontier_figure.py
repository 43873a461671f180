"""The figure of leakage against utility: one panel per strategy and client mode, a mark per defense.

Shape tells the kind (undefended, with a guarantee, without), filling who lies on the frontier, colour whether
images were recovered; every mark is named, so that none of it rests on colour alone.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab.report.knowledge import CEILING_DB
from fedlab.report.labels import WIDE, Box, placed
from fedlab.report.reading import LEVELS, NEAR_IDENTICAL_DB, decibel, epsilon, mode_word, panel, percent
from fedlab.report.svg import BAD, CALM, INK, LINE, MUTED, PAPER, inline

Row = dict[str, Any]

SIZE = (7.6, 5.0)
"""Inches."""
FRAME = (0.085, 0.125, 0.895, 0.80)
"""Left, bottom, width, height of the axes, as shares of the figure: fixed, so that labels keep still."""
FONT, SMALL = 9.5, 8.5
LONGEST = 30
"""Letters of a label."""


def frontiers(data: Row) -> list[Row]:
    """(strategy, client_mode, figure) of each panel; none without both accuracy and an attack's images."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in data["frontier"]:
        panels.setdefault(panel(row), []).append(row)
    return [
        {
            "strategy": strategy,
            "client_mode": mode,
            "picture": _figure(f"frontier-{number}", rows, data, strategy, mode),
        }
        for number, ((strategy, mode), rows) in enumerate(panels.items(), start=1)
    ]


def _figure(name: str, rows: list[Row], data: Row, strategy: str, mode: str) -> Markup:
    title = f"{data['run']['name']}: leakage against accuracy"
    under = ", ".join(filter(None, [strategy, f"clients in {mode_word(mode)}"]))

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes: Axes = figure.add_axes(FRAME)
        _frame(axes, rows)
        words = _backdrop(axes, rows, data["threshold_db"])
        for row in rows:
            _mark(axes, row)
        _names(figure, axes, rows, words)
        figure.text(0.012, 0.962, _cut(title, 60), color=INK, fontsize=12, fontweight="bold", va="center")
        figure.text(0.988, 0.962, _cut(under, 60), color=MUTED, fontsize=FONT, ha="right", va="center")

    return inline(name, f"{title}, {under}. {told(rows)}", SIZE, draw)


def _frame(axes: Axes, rows: list[Row]) -> None:
    bounds = [100 * one for row in rows for one in (row["accuracy_ci95"] or [row["accuracy"]])]
    left, right = min(bounds), max(bounds)
    room = max(right - left, 4.0) * 0.08
    axes.set_xlim(max(left - 2 * room, -2.0), min(right + 2 * room, 103.0))
    axes.set_ylim(0, CEILING_DB + 5)
    axes.set_yticks(range(0, 61, 10), [*map(str, range(0, 60, 10)), "60+"])
    axes.set_xlabel("test accuracy (%)  → better for everyone", fontsize=FONT)
    axes.set_ylabel("strongest attack, median PSNR (dB)  ← better for clients", fontsize=FONT)


def _backdrop(axes: Axes, rows: list[Row], threshold: float) -> list[Box]:
    """What controls reach, the steps of the reading aid, and the frontier; returns where words stand."""
    words: list[Box] = []

    def note(height: float, text: str) -> None:
        x, y = axes.transAxes.transform((0.995, 0.0))[0], axes.transData.transform((0.0, height))[1]
        words.append(Box(x - WIDE * SMALL * len(text), y, x, y + 1.25 * SMALL))
        axes.text(0.995, height, text, color=MUTED, fontsize=SMALL, ha="right", va="bottom",
                  transform=axes.get_yaxis_transform())  # fmt: skip

    controls = [row["control"] for row in rows if row["control"] is not None]
    if controls:
        axes.axhspan(0, max(controls), color=LINE, alpha=0.4, linewidth=0)
        note(0.6, "control: reached without any data")
    for value, word in {threshold: "recovered", NEAR_IDENTICAL_DB: "near-identical"}.items():
        if value <= CEILING_DB:
            axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            note(value + 0.4, word)
    best = sorted((100 * row["accuracy"], _leak(row)) for row in rows if row["efficient"])
    if len(best) > 1:
        # Whoever wants more accuracy than a defense gives has to take the next one's leak.
        axes.plot(*zip(*best, strict=True), drawstyle="steps-pre", color=INK, linewidth=1.3, alpha=0.65)
    return words


def _mark(axes: Axes, row: Row) -> None:
    x, y = 100 * row["accuracy"], _leak(row)
    colour = BAD if LEVELS[row["level"]].rank >= LEVELS["some"].rank else CALM
    if row["accuracy_ci95"]:
        axes.plot([100 * one for one in row["accuracy_ci95"]], [y, y], color=colour, linewidth=1.1, alpha=0.5)
    axes.plot([x, x], [y, min(row["psnr_max"], CEILING_DB)], color=colour, linewidth=1.1, alpha=0.5)
    shape = "D" if row["undefended"] else "s" if row["epsilon"] is not None else "o"
    axes.plot(
        [x],
        [y],
        marker=shape,
        markersize=9.5 if shape == "o" else 8.0,
        color=colour,
        mfc=colour if row["efficient"] else PAPER,
        mec=PAPER if row["efficient"] else colour,
        mew=0.8 if row["efficient"] else 1.6,
        zorder=3,
    )


def _names(figure: Figure, axes: Axes, rows: list[Row], words: list[Box]) -> None:
    """The labels, with a thread to the mark where they stand apart from it."""
    wide, high = figure.get_size_inches() * 72
    left, bottom, width, height = FRAME
    frame = Box(left * wide + 2, bottom * high + 2, (left + width) * wide - 2, (bottom + height) * high - 2)
    points = [axes.transData.transform((100 * row["accuracy"], _leak(row))) for row in rows]
    texts = [_label(row) for row in rows]
    taken = [*words, *(one for row in rows for one in _whiskers(axes, row))]
    boxes = placed([(float(x), float(y)) for x, y in points], texts, frame, size=FONT, taken=taken)
    back = figure.transFigure
    for (x, y), text, box in zip(points, texts, boxes, strict=True):
        middle_x, middle_y = box.middle
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
        if abs(near_x - x) + abs(near_y - y) > 13.0:
            figure.add_artist(_thread(back, [x / wide, near_x / wide], [y / high, near_y / high]))
        side = "left" if box.left >= x else "right" if box.right <= x else "center"
        at = {"left": box.left, "right": box.right, "center": middle_x}[side]
        figure.text(at / wide, middle_y / high, text, color=INK, fontsize=FONT, ha=side,
                    va="center_baseline")  # fmt: skip


def _whiskers(axes: Axes, row: Row) -> list[Box]:
    """Where a mark's two lines run, in points."""
    x, y = 100 * row["accuracy"], _leak(row)
    low, high = [100 * one for one in row["accuracy_ci95"] or [row["accuracy"]] * 2]
    ends = [((low, y), (high, y)), ((x, y), (x, min(row["psnr_max"], CEILING_DB)))]
    placed_ends = [axes.transData.transform(pair) for pair in ends]
    return [Box(a[0] - 1.0, a[1] - 1.0, b[0] + 1.0, b[1] + 1.0) for a, b in placed_ends]


def _thread(transform: Any, x: list[float], y: list[float]) -> Line2D:
    return Line2D(x, y, color=MUTED, linewidth=0.7, transform=transform)


def _leak(row: Row) -> float:
    return min(float(row["psnr_median"]), CEILING_DB)


def _label(row: Row) -> str:
    proved = "" if row["epsilon"] is None else f" (ε {epsilon(row['epsilon'])})"
    return _cut(row["defense"], LONGEST - len(proved)) + proved


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def told(rows: list[Row]) -> str:
    """The figure for those who do not see it."""
    return "; ".join(
        f"{row['defense']}: accuracy {percent(row['accuracy'], 1)}, {row['attack']} reaches"
        f" {decibel(row['psnr_median'])}{', on the frontier' if row['efficient'] else ''}"
        for row in sorted(rows, key=lambda row: (_leak(row), -row["accuracy"]))
    )
