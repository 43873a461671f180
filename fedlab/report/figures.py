"""The figures of the report. Each is drawn from report.json's data alone, in shapes as well as colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab.report.reading import LEVELS, NEAR_IDENTICAL_DB, assumed, key, namer
from fedlab.report.svg import BAD, CALM, INK, LINE, MUTED, PAPER, inline
from fedlab.report.verdict import strongest_of

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
        _thresholds(axes.axvline, axes, data["threshold_db"], vertical=True)
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


def leakage_against_cost(data: Row) -> Markup | None:
    """Accuracy cost against the strongest attack's PSNR, a point per defense; None without both."""
    name = namer(data["run"]["cells"], ", ")
    guarded = {key(row) for row in data["guarantees"] if row["epsilon"] is not None}
    costed = all(row["accuracy_cost"] is not None for row in data["utility"])
    found = []
    for row in data["utility"]:
        strongest = strongest_of([one for one in assumed(data["attacks"]) if key(one) == key(row)])
        if strongest is not None:
            x = 100 * (row["accuracy_cost"] if costed else 1 - row["accuracy"])
            found.append((x, strongest, row))
    if not found:
        return None

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        left, right = min(x for x, *_ in found), max(x for x, *_ in found)
        span = max(right - left, 4.0)
        controls = [one["control"]["psnr_median"] for _, one, _ in found]
        ceiling = max((value for value in controls if value is not None), default=0.0)
        axes.axhspan(0, ceiling, color=LINE, alpha=0.35, linewidth=0)
        for x, strongest, row in found:
            median, worst = _capped([strongest["psnr_median"], strongest["psnr_max"]])
            colour = BAD if LEVELS[strongest["level"]].rank >= 3 else CALM
            marker = "s" if key(row) in guarded else "o"
            axes.plot([x, x], [median, worst], color=colour, linewidth=2, alpha=0.5)
            axes.plot([x], [median], marker=marker, markersize=9, color=colour, mec=PAPER)
        for x, median, names in _neighbours(found, span, name):
            to_left = x > left + 0.6 * span
            axes.annotate(
                _cut(", ".join(names)),
                (x, median),
                xytext=(-9 if to_left else 9, 0),
                textcoords="offset points",
                ha="right" if to_left else "left",
                va="center",
            )
        _thresholds(axes.axhline, axes, data["threshold_db"], vertical=False)
        if ceiling:
            axes.text(1.0, ceiling / 2, "control", color=MUTED, fontsize=9, ha="right", va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        axes.set_xlim(left - 0.12 * span, right + 0.25 * span)
        axes.set_ylim(0, CEILING_DB + 4)
        axes.set_yticks(range(0, 61, 10), [*map(str, range(0, 60, 10)), "60+"])
        axes.set_xlabel("accuracy cost (percentage points)" if costed else "test error (%)")
        axes.set_ylabel("strongest attack (PSNR, dB)")

    return inline("cost", "Strongest attack against accuracy cost, per defense", (WIDTH, 3.0), draw)


def _neighbours(
    found: list[tuple[float, Row, Row]], span: float, name: Callable[[Row], str]
) -> list[tuple[float, float, list[str]]]:
    """(x, y, names): points too close for two labels share one, beside the rightmost of them."""
    groups: list[tuple[float, float, list[str]]] = []
    for x, strongest, row in sorted(found, key=lambda one: one[0]):
        median = _capped([strongest["psnr_median"]])[0]
        near = groups and x - groups[-1][0] < 0.15 * span and abs(median - groups[-1][1]) < 5.0
        names = [*groups.pop()[2], name(row)] if near else [name(row)]
        groups.append((x, median, names))
    return groups


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


def _thresholds(line: Any, axes: Axes, threshold: float, *, vertical: bool) -> None:
    """The two lines of the reading aid, named at their end."""
    marks = {threshold: "recovered", NEAR_IDENTICAL_DB: "near-identical"}
    for value, name in marks.items():
        if not 0 <= value <= CEILING_DB:
            continue
        line(value, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        if vertical:
            before = name == "recovered"
            place, side = (value - 0.6, "right") if before else (value + 0.6, "left")
            axes.text(place, 0.62, name, color=MUTED, fontsize=8.5, ha=side, va="center")
        else:
            axes.text(1.0, value + 0.6, name, color=MUTED, fontsize=8.5, ha="right", va="bottom",
                      transform=axes.get_yaxis_transform())  # fmt: skip


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
