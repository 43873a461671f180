"""Figures of the map: one panel per axis, and the basin of attraction. From report.json alone.

A client mode keeps its colour, its mark and its dashes in all of them; an attack keeps its small mark.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab.report.figures import CEILING_DB
from fedlab.report.reading import decibel, mode_word
from fedlab.report.svg import INK, LINE, MUTED, PAPER, SERIES, inline

Row = dict[str, Any]
PANEL = (4.1, 2.9)
"""Inches of one panel."""
STYLE: dict[str, dict[str, Any]] = {
    "eval": {"color": SERIES[1], "marker": "o", "dashes": (None, None)},
    "train": {"color": SERIES[2], "marker": "s", "dashes": (5, 2)},
}
SHAPES = ("^", "v", "D", "<", ">", "P", "X", "*")
"""Of the attacks, in their order."""
BESIDE = 0.09
"""By how much the marks of the two modes stand apart."""
HEADROOM = 4.0


def panels(data: Row | None, threshold: float) -> list[tuple[Row, Markup]]:
    """(axis, figure) for each axis that has more than one value."""
    if data is None or not data["points"]:
        return []
    top = _top(data, threshold)
    return [
        (axis, _panel(f"map-{number}", axis, data, threshold, top))
        for number, axis in enumerate(data["axes"], start=1)
    ]


def _panel(name: str, axis: Row, data: Row, threshold: float, top: float) -> Markup:
    by_name = {row["name"]: row for row in data["points"]}
    rows = [by_name.get(one["point"]) for one in axis["values"]]

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for place, row in enumerate(rows):
            controls = [one["control"] for one in _modes(row) if one["control"] is not None]
            grey = min(max(controls, default=0.0), top)
            axes.fill_between([place - 0.5, place + 0.5], 0, grey, color=LINE, alpha=0.45, linewidth=0)
            if not _modes(row):
                axes.text(place, 0.6, "not measured", color=MUTED, fontsize=8, ha="center", rotation=90)
        for side, mode in enumerate(data["modes"]):
            shift = BESIDE * (2 * side - 1) if len(data["modes"]) > 1 else 0.0
            _line(axes, rows, mode, shift, data["attacks"], top, joined=axis["ordered"])
        _threshold(axes, threshold)
        ticks = [
            f"{one['value']}\n(base)" if row is not None and not row["overrides"] else one["value"]
            for one, row in zip(axis["values"], rows, strict=True)
        ]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        _scale(axes, top)

    return inline(name, f"PSNR by {axis['name']}. {_spoken(axis, rows)}", PANEL, draw)


def _line(
    axes: Axes,
    rows: list[Row | None],
    mode: str,
    shift: float,
    attacks: list[str],
    top: float,
    *,
    joined: bool,
) -> None:
    """One mode: the best attack with its intervals, `joined` by a line where values have an order, and each
    attack as a small mark."""
    style = STYLE[mode]
    points = []
    for place, row in enumerate(rows):
        one = next((one for one in _modes(row) if one["client_mode"] == mode), None)
        if one is None:
            continue
        for tried in one["attacks"]:
            if tried["psnr_median"] is not None:
                axes.plot(
                    [place + shift * 2.4],
                    [min(tried["psnr_median"], top)],
                    marker=SHAPES[attacks.index(tried["attack"]) % len(SHAPES)],
                    markersize=4.0,
                    color=style["color"],
                    mfc="none",
                    alpha=0.8,
                    linestyle="none",
                )
        if one["best"] is not None:
            points.append((place + shift, one["best"]))
    for x, best in points:
        if best["psnr_ci95"] is not None:
            low, high = (min(value, top) for value in best["psnr_ci95"])
            axes.plot([x, x], [low, high], color=style["color"], linewidth=1.6, alpha=0.6)
    axes.plot(
        [x for x, _ in points],
        [min(best["psnr_median"], top) for _, best in points],
        color=style["color"],
        marker=style["marker"],
        markersize=6.5,
        mec=PAPER,
        dashes=style["dashes"],
        linewidth=1.2 if joined else 0.0,
    )


def basin(data: Row | None, threshold: float) -> Markup | None:
    """Where the attack ended against how much of its start was noise; None without a curve."""
    study = (data or {}).get("basin")
    curves = [one for one in (study or {}).get("curves", []) if any(_known(one["points"], "psnr_median"))]
    if not curves:
        return None
    values = [
        value
        for one in curves
        for key in ("psnr_median", "control_median")
        for _, value in _known(one["points"], key)
    ]
    top = min(CEILING_DB, max([*values, threshold]) + HEADROOM)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        start = _known(curves[0]["points"], "start")
        axes.plot(
            [100 * x for x, _ in start],
            [min(y, top) for _, y in start],
            color=INK,
            linewidth=0.9,
            linestyle=(0, (1, 2)),
        )
        for curve in curves:
            style = STYLE[curve["client_mode"]]
            control = _known(curve["points"], "control_median")
            axes.plot(
                [100 * x for x, _ in control],
                [min(y, top) for _, y in control],
                color=MUTED,
                marker=style["marker"],
                markersize=3.5,
                linewidth=0.8,
                alpha=0.8,
            )
            for one in curve["points"]:
                if one["psnr_ci95"] is not None:
                    low, high = (min(value, top) for value in one["psnr_ci95"])
                    axes.plot([100 * one["share"]] * 2, [low, high], color=style["color"], lw=1.6, alpha=0.6)
            found = _known(curve["points"], "psnr_median")
            axes.plot(
                [100 * x for x, _ in found],
                [min(y, top) for _, y in found],
                color=style["color"],
                marker=style["marker"],
                markersize=6.5,
                mec=PAPER,
                dashes=style["dashes"],
                linewidth=1.4,
            )
        _threshold(axes, threshold)
        _scale(axes, top)
        axes.set_xlabel("pixels of the true image replaced by noise in the start (%)")

    told = "; ".join(
        f"{mode_word(one['client_mode'])}: "
        + ", ".join(f"{decibel(y)} from {100 * x:g} %" for x, y in _known(one["points"], "psnr_median"))
        for one in curves
    )
    return inline("map-basin", f"Basin of attraction. {told}", (5.2, 3.1), draw)


def _modes(row: Row | None) -> list[Row]:
    """What was measured at a point, by client mode."""
    return list(row["modes"]) if row else []


def _known(points: list[Row], key: str) -> list[tuple[float, float]]:
    return [(one["share"], one[key]) for one in points if one[key] is not None]


def _top(data: Row, threshold: float) -> float:
    """One scale for all panels."""
    values = [threshold]
    for row in data["points"]:
        for one in row["modes"]:
            values += [tried["psnr_median"] for tried in one["attacks"] if tried["psnr_median"] is not None]
            values += (one["best"] or {}).get("psnr_ci95") or ()
    return min(CEILING_DB, max(values) + HEADROOM)


def _threshold(axes: Axes, threshold: float) -> None:
    axes.axhline(threshold, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.text(1.0, threshold, "recovered", color=MUTED, fontsize=8.5, ha="right", va="bottom",
              transform=axes.get_yaxis_transform())  # fmt: skip


def _scale(axes: Axes, top: float) -> None:
    axes.set_ylim(0, top)
    axes.yaxis.grid(True, color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_ylabel("PSNR (dB)")


def _spoken(axis: Row, rows: list[Row | None]) -> str:
    """What a screen reader says of a panel."""
    told = []
    for one, row in zip(axis["values"], rows, strict=True):
        for mode in _modes(row):
            value = decibel(mode["best"]["psnr_median"]) if mode["best"] else "no answer"
            told.append(f"{one['value']}, {mode_word(mode['client_mode'])}: {value}")
    return "; ".join(told)
