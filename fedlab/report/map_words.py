"""The map in sentences: what is a difference, what is none that was shown, and what could not be measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from fedlab.report import reading

Row = dict[str, Any]

NO_SMALLER = 1.0
"""Differences below so many dB are not told by name, however narrow their interval."""

FEW = 5
"""Of fewer victims, a bootstrap sees too little of how victims differ."""


def called(key: str) -> str:
    """`task.model.first_bias` as people say it: first bias."""
    return key.rpartition(".")[2].replace("_", " ")


def written(value: Any) -> str:
    """A value on an axis: a network by its name, switches as on and off."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {written(item)}" for key, item in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name} ({rest})" if rest else name
    if value is None:
        return "not set"
    return (
        f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def setting(overrides: Mapping[str, Any]) -> str:
    """What is turned at a point: "norm group, width 8"; the base is "base"."""
    return ", ".join(f"{called(key)} {written(value)}" for key, value in overrides.items()) or "base"


def findings(data: Row, threshold: float) -> list[str]:
    """Sentences under the figure, the most important first."""
    points = data["points"]
    return [
        *_reached(points, data["modes"], threshold),
        *_modes(points),
        *(text for mode in data["modes"] for text in _turned(points, mode)),
        *_few(points),
        *_gaps(data),
    ]


def _reached(points: list[Row], modes: list[str], threshold: float) -> list[str]:
    """At how many points the best attack reaches the threshold."""
    found = []
    for mode in modes:
        rows = [(row, one["best"]) for row in points for one in row["modes"] if one["client_mode"] == mode]
        medians = [(row, best["psnr_median"]) for row, best in rows if best is not None]
        over = [row["label"] for row, value in medians if value >= threshold]
        where = f": {reading.listed(over)}" if 0 < len(over) <= 6 else ""
        share = f"{len(over)} of {reading.plural(len(medians), 'point')}"
        words = reading.mode_word(mode)
        base = next((best for row, best in rows if best is not None and not row["overrides"]), None)
        told = (
            f" At the base the highest median is {base['attack']}'s: {reading.decibel(base['psnr_median'])}."
            if base is not None
            else ""
        )
        found.append(f"In {words} the best attack's median reaches {threshold:g} dB at {share}{where}.{told}")
    return found


def _few(points: list[Row]) -> list[str]:
    """That intervals over a handful of victims mean little."""
    tried = [one["victims"] for row in points for side in row["modes"] for one in side["attacks"]]
    most = max(tried, default=FEW)
    if not 1 < most < FEW:
        return []
    return [
        f"Each interval rests on {most} victims at most: a bootstrap over so few means little, however narrow"
        " it is."
    ]


def _modes(points: list[Row]) -> list[str]:
    """Inference against training mode, at the base and elsewhere."""
    known = [row for row in points if row["difference"] is not None]
    if not known:
        return []
    found = []
    base = next((row for row in known if not row["overrides"]), None)
    if base is not None:
        gap = base["difference"]
        found.append(
            f"At the base, inference mode gives {_more(gap)} than training mode ({_told(gap)})."
            if _shown(gap)
            else f"At the base no difference between inference and training mode is shown: {_told(gap)}."
        )
    others = [row for row in known if row["overrides"]]
    above = [row for row in others if _shown(row["difference"]) and row["difference"]["median"] > 0]
    below = [row for row in others if _shown(row["difference"]) and row["difference"]["median"] < 0]
    open_ = [row for row in others if not _shown(row["difference"])]
    if above:
        found.append(f"Inference mode leaks more at {_each(above, 'difference')}.")
    if below:
        found.append(f"Training mode leaks more at {_each(below, 'difference')}.")
    if open_:
        where = reading.listed([row["label"] for row in open_])
        found.append(f"No difference between the modes is shown at {where}: the interval includes 0.")
    return found


def _turned(points: list[Row], mode: str) -> list[str]:
    """What each setting changes against the base, in one mode."""
    rows = [
        {"label": row["label"], "gap": row["against_base"][mode]}
        for row in points
        if row["against_base"].get(mode) is not None
    ]
    shown = [row for row in rows if _shown(row["gap"]) and abs(row["gap"]["median"]) >= NO_SMALLER]
    less = sorted((row for row in shown if row["gap"]["median"] < 0), key=lambda row: row["gap"]["median"])
    more = sorted((row for row in shown if row["gap"]["median"] > 0), key=lambda row: -row["gap"]["median"])
    if not rows:
        return []
    parts = []
    if less:
        parts.append(f"less leaks with {_each(less, 'gap')}")
    if more:
        parts.append(f"more leaks with {_each(more, 'gap')}")
    rest = [row["label"] for row in rows if row not in shown]
    if rest:
        parts.append(f"no change of {NO_SMALLER:g} dB or more is shown with {reading.listed(rest)}")
    return [f"Against the base, in {reading.mode_word(mode)}: {'; '.join(parts)}."]


def _gaps(data: Row) -> list[str]:
    """What was not measured."""
    failed = [row for row in data["points"] if row["failure"]]
    missing = data["planned"] - len(data["points"])
    found = [f"{row['label']} could not be measured: {row['failure']}" for row in failed]
    if missing:
        found.append(f"{reading.plural(missing, 'point')} of {data['planned']} had not been reached.")
    silent = [(row, one) for row in data["points"] for one in row["modes"] if one["best"] is None]
    found += [
        f"No attack answered at {row['label']} in {reading.mode_word(one['client_mode'])}:"
        f" {next((tried['reason'] for tried in one['attacks'] if tried['reason']), 'no image came back')}"
        for row, one in silent
    ]
    return found


def of_basin(basin: Row, threshold: float) -> list[str]:
    """What the curves say, one sentence per mode."""
    if basin["refusal"]:
        return [f"There is no basin of {basin['attack']}: {basin['refusal']}."]
    return [_curve(one, threshold) for one in basin["curves"]]


def _curve(curve: Row, threshold: float) -> str:
    """From how far the attack comes back in one mode."""
    points, mode = curve["points"], reading.mode_word(curve["client_mode"])
    known = [one for one in points if one["psnr_median"] is not None]
    if not known:
        reason = next((one["reason"] for one in points if one["reason"]), "it gave no answer")
        return f"In {mode} the attack has no curve: {reason}."
    near = list(itertools.takewhile(lambda one: bool(one["psnr_median"] >= threshold), known))
    if not near and known[0]["share"] == 0.0:
        return (
            f"In {mode}, started from the true image itself, the attack drifts away, to"
            f" {reading.decibel(known[0]['psnr_median'])}: update and prior, as it reads them, do not contain"
            " the image, and no better optimiser of the same objective would find it."
        )
    if not near:
        return f"In {mode} the attack reaches {threshold:g} dB from none of the starts."
    last = near[-1]
    further = known[len(near)] if len(near) < len(known) else None
    if last["share"] == 0.0 and further is not None:
        return (
            f"In {mode}, started from the true image itself, the attack stays there"
            f" ({reading.decibel(last['psnr_median'])}); {_replaced(further['share'])} it ends at"
            f" {reading.decibel(further['psnr_median'])}. Nothing between was tried, so that how far it comes"
            " back from is not known: the image is in the update, but the way to it is not found."
        )
    if last["share"] == 1.0:
        return f"In {mode} the attack reaches {threshold:g} dB from every start, pure noise included."
    found = (
        f"In {mode} the attack reaches {threshold:g} dB with up to {reading.percent(last['share'])} of the"
    )
    found += f" pixels replaced ({reading.decibel(last['psnr_median'])}, from a start of"
    found += f" {reading.decibel(last['start'])})"
    if further is None:
        return f"{found}, the furthest start that was tried."
    return f"{found}, and not from further away: the image is in the update, but the way to it is not found."


def _replaced(share: float) -> str:
    return "from pure noise" if share == 1.0 else f"with {reading.percent(share)} of the pixels replaced"


def _shown(gap: Row) -> bool:
    """Whether the interval leaves 0 out."""
    low, high = gap["ci95"]
    return not low <= 0.0 <= high


def _more(gap: Row) -> str:
    word = "more" if gap["median"] > 0 else "less"
    return f"{reading.decibel(abs(gap['median']))} {word}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _told(gap: Row) -> str:
    low, high = gap["ci95"]
    zero = ", which includes 0" if not _shown(gap) else ""
    return (
        f"{_signed(gap['median'])} dB, 95 % interval {_signed(low)} to {_signed(high)}{zero},"
        f" {gap['victims']} victims in pairs"
    )


def _each(rows: list[Row], key: str) -> str:
    """norm batch (+5.2 dB, +3.1 to +7.0) and width 8 (...)"""
    return reading.listed(
        [
            f"{row['label']} ({_signed(row[key]['median'])} dB, {_signed(row[key]['ci95'][0])} to"
            f" {_signed(row[key]['ci95'][1])})"
            for row in rows
        ]
    )
