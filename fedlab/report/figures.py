"""The figures of the report. Each is drawn from report.json's data alone, in shapes as well as colours."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab.report.reading import NEAR_IDENTICAL_DB, assumed, namer
from fedlab.report.svg import BAD, CALM, INK, LINE, MUTED, inline

CEILING_DB = 60.0
WIDTH = 5.0
MOST_CLIENTS = 300
"""Dots in a row at most."""
_LONGEST_LABEL = 26

Row = dict[str, Any]


def every_image(data: Row) -> Markup | None:
    """One dot per attacked image, its control beneath; None if no attack answered with images."""
    rows = [row for row in assumed(data["attacks"]) if row["psnr"]]
    if not rows:
        return None
    name = namer(data["run"]["cells"], ", ")

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        ticks, names = [], []
        for place, row in enumerate(rows):
            base = -1.0 * place
            if place and rows[place - 1]["attack"] != row["attack"]:
                axes.axhline(base + 0.5, color=LINE, linewidth=0.6)
            leaked = [value for value in row["psnr"] if value >= data["threshold_db"]]
            kept = [value for value in row["psnr"] if value < data["threshold_db"]]
            style: dict[str, Any] = {"linestyle": "none", "markersize": 6.5, "alpha": 0.75}
            axes.plot(_capped(leaked), [base + 0.13] * len(leaked), marker="o", color=BAD, mew=0, **style)
            axes.plot(_capped(kept), [base + 0.13] * len(kept), marker="o", color=CALM, mew=0, **style)
            control = row["control"]["psnr"]
            axes.plot(
                _capped(control), [base - 0.2] * len(control), marker="|", color=MUTED, linestyle="none"
            )
            ticks.append(base)
            names.append(_cut(f"{row['attack']}\n{name(row)}"))
        _thresholds(axes, data["threshold_db"])
        axes.set_yticks(ticks, names)
        for label in axes.get_yticklabels():
            label.set_color(INK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(rows) + 0.45, 0.75)
        axes.set_xlim(0, CEILING_DB + 2)
        axes.set_xticks(range(0, 61, 10), [*map(str, range(0, 60, 10)), "60+"])
        axes.set_xlabel("PSNR (dB): further right, more was taken")

    return inline(
        "images", "PSNR of every attacked image and of its control", (WIDTH, 0.7 + 0.52 * len(rows)), draw
    )


def clients(data: Row) -> Markup | None:
    """Accuracy of each client, a row of dots per defense; None if it was not measured."""
    rows = [row for row in data["utility"] if row["per_client"]["values"]]
    if not rows:
        return None
    name = namer(data["run"]["cells"], ", ")

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for place, row in enumerate(rows):
            values = [100 * value for value in _thinned(row["per_client"]["values"])]
            height = _stacked(values)
            axes.plot(values, [-place + y for y in height], "o", color=CALM, markersize=4.5, alpha=0.6, mew=0)
            median = 100 * row["per_client"]["median"]
            axes.plot([median, median], [-place - 0.18, -place + 0.42], color=INK, linewidth=1.6)
            worst = 100 * row["per_client"]["worst"]
            axes.plot([worst], [-place], marker="D", color=BAD, markersize=6, mew=0)
        axes.set_yticks([-place for place in range(len(rows))], [_cut(name(row)) for row in rows])
        for label in axes.get_yticklabels():
            label.set_color(INK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(rows) + 0.5, 0.6)
        lowest = min(100 * row["per_client"]["worst"] for row in rows)
        axes.set_xlim(max(-2.0, lowest - 8.0), 102)
        axes.set_xlabel("test accuracy on the client's own mix of labels (%)")

    return inline("clients", "Accuracy of each client, per defense", (WIDTH, 0.75 + 0.62 * len(rows)), draw)


def _thinned(values: list[float]) -> list[float]:
    """At most `MOST_CLIENTS` of them, evenly by rank, the first and the last among them."""
    if len(values) <= MOST_CLIENTS:
        return values
    return [values[place * (len(values) - 1) // (MOST_CLIENTS - 1)] for place in range(MOST_CLIENTS)]


def _thresholds(axes: Axes, threshold: float) -> None:
    """The two lines of the reading aid, named at their end."""
    marks = {threshold: "recovered", NEAR_IDENTICAL_DB: "near-identical"}
    for value, name in marks.items():
        if not 0 <= value <= CEILING_DB:
            continue
        axes.axvline(value, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        before = name == "recovered"
        place, side = (value - 0.6, "right") if before else (value + 0.6, "left")
        axes.text(place, 0.62, name, color=MUTED, fontsize=8.5, ha=side, va="center")


def _stacked(values: list[float]) -> list[float]:
    """Heights so that dots of (nearly) equal value stand on each other instead of hiding each other."""
    heights, seen = [], dict[int, int]()
    for value in values:
        place = round(value / 1.5)
        heights.append(min(0.1 * seen.get(place, 0), 0.5))
        seen[place] = seen.get(place, 0) + 1
    return heights


def _capped(values: list[float]) -> list[float]:
    return [min(value, CEILING_DB) for value in values]


def _cut(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(one if len(one) <= _LONGEST_LABEL else one[: _LONGEST_LABEL - 1] + "…" for one in lines)
