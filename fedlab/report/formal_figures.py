"""Figures of what is proved and measured: ε over rounds, ε against δ, lower bounds beside upper ones."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlab.report.reading import epsilon, key, namer, small
from fedlab.report.svg import BAD, CALM, INK, LINE, MUTED, SERIES, inline

Row = dict[str, Any]

PANEL = (4.1, 2.75)
"""Inches of one panel."""


def formal_figures(data: Row) -> dict[tuple[str, str, str], list[Markup]]:
    """The panels of each proof, by the pool that it is about."""
    found = {}
    for number, row in enumerate(data["proofs"], start=1):
        pictures = [_course(f"course-{number}", row), _curve(f"curve-{number}", row)]
        found[key(row)] = [one for one in pictures if one is not None]
    return found


def _course(name: str, row: Row) -> Markup | None:
    """ε spent over rounds, of the client with the largest."""
    if len(row["course"]) < 2:
        return None
    rounds, spent = zip(*row["course"], strict=True)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        axes.plot(rounds, spent, color=SERIES[1], linewidth=1.9)
        axes.plot(rounds[-1:], spent[-1:], "o", color=SERIES[1], markersize=5)
        axes.annotate(f"ε = {epsilon(spent[-1])}", (rounds[-1], spent[-1]), xytext=(-6, 6),
                      textcoords="offset points", ha="right", va="bottom", color=INK)  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.2 * max(spent))
        axes.set_xlabel("round")
        axes.set_ylabel(f"ε spent, at δ = {small(row['delta'])}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))

    told = f"ε spent over rounds by the most exposed client: {epsilon(spent[-1])} after round {rounds[-1]}"
    return inline(name, told, PANEL, draw)


def _curve(name: str, row: Row) -> Markup | None:
    """Which ε holds at which δ: the same training, said otherwise."""
    if len(row["curve"]) < 2:
        return None
    deltas, values = zip(*row["curve"], strict=True)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        axes.plot(deltas, values, color=SERIES[1], linewidth=1.9, marker="o", markersize=3.5)
        axes.axvline(row["delta"], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.annotate(
            "δ of this report",
            (row["delta"], 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),  # points beside the line: the page's font has spaces of its own width
            textcoords="offset points",
            color=MUTED,
            fontsize=8.5,
        )
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
        axes.set_ylim(0, 1.15 * max(values))
        axes.set_xlabel("δ")
        axes.set_ylabel("ε")
        axes.yaxis.set_major_locator(MaxNLocator(5))

    told = "; ".join(f"ε = {epsilon(value)} at δ = {small(delta)}" for delta, value in row["curve"])
    return inline(name, f"ε against δ: {told}", PANEL, draw)


def bounds(data: Row) -> Markup | None:
    """Lower bounds measured by canaries beside the ε that is proved; None if none was measured."""
    found = [(row, one) for row in data["checks"] for one in row["one_run"] if one["epsilon_hat"] is not None]
    if not found:
        return None
    name = namer(data["run"]["cells"], ", ")

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        furthest = max([one["epsilon_hat"] for _, one in found] + [_claimed(*pair) or 0.0 for pair in found])
        for place, (row, one) in enumerate(found):
            low, high = one["epsilon_hat"], _claimed(row, one)
            colour = BAD if high is not None and low > high else CALM
            if high is not None:
                axes.plot([low, high], [-place, -place], color=colour, linewidth=5, alpha=0.35)
                axes.plot([high], [-place], marker="s", markersize=7, color=colour, mew=0)
            axes.plot([low], [-place], marker=">", markersize=8, color=colour, mew=0, clip_on=False)
        axes.set_yticks([-place for place in range(len(found))], [name(row)[:30] for row, _ in found])
        for label in axes.get_yticklabels():
            label.set_color(INK)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(found) + 0.4, 0.6)
        axes.set_xlim(0, 1.08 * max(furthest, 0.1))
        axes.set_xlabel("ε: ▸ measured, at least; ■ claimed, at most")
        axes.xaxis.grid(True, color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)

    told = "; ".join(
        f"{name(row)}: at least {one['epsilon_hat']:.2f},"
        f" {'nothing' if _claimed(row, one) is None else 'at most ' + epsilon(_claimed(row, one))} is claimed"
        for row, one in found
    )
    return inline("bounds", f"Measured and claimed bounds of ε. {told}", (6.4, 0.9 + 0.42 * len(found)), draw)


def _claimed(row: Row, one: Row) -> float | None:
    """The upper bound that a lower one is held against: that of the same training."""
    value = row["claimed"] if one["claimed"] is None else one["claimed"]
    return None if value is None else float(value)
