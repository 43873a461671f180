"""From numbers to words: how far an attack got, and how figures are printed.

The levels are a reading aid, not a measure of risk: they depend on the attack that was tried. Each has a
symbol and a word, so that the matrix reads without colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedlab.audit.scoring import Summary
from fedlab.errors import clause as clause
from fedlab.glossary import LEVELS as LEVELS
from fedlab.glossary import Level as Level
from fedlab.ladder import UNUSED as UNUSED
from fedlab.ladder import assumed as assumed
from fedlab.ladder import reached as reached

CONTROL_MARGIN_DB = 1.0
NEAR_IDENTICAL_DB = 30.0
DASH = "–"


# Levels under which nothing was tried: neither a leak nor a lack of one.
UNTRIED = ("failed", "unattacked")

# Levels of attacks that answered nothing at all.
SILENT = ("refused", *UNTRIED)


def level(scores: Summary, control: Summary, threshold: float, *, unanswered: str = "refused") -> Level:
    """Where an attack stands, by its median, its worst case and its own control.

    `unanswered` is the level of an attack that named neither an image nor a label.
    """
    median, worst = scores.psnr_median, scores.psnr_max
    if median is None or worst is None:
        return LEVELS["labels" if scores.label_accuracy is not None else unanswered]
    base, best_base = control.psnr_median, control.psnr_max
    if base is not None and best_base is not None and median <= base + CONTROL_MARGIN_DB:
        # A threshold that the control itself reaches tells nothing: then only images above the control's
        # own best are evidence.
        if worst < threshold or (best_base >= threshold and worst <= best_base + CONTROL_MARGIN_DB):
            return LEVELS["control"]
    if median >= max(threshold, NEAR_IDENTICAL_DB):
        return LEVELS["copy"]
    if median >= threshold:
        return LEVELS["most"]
    return LEVELS["some" if worst >= threshold else "above"]


def decibel(value: float | None) -> str:
    """146.3 dB."""
    return DASH if value is None else f"{value:.1f} dB"


def percent(value: float | None, digits: int = 0) -> str:
    """94 %, or 94.2 % with a digit."""
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of two rates, in percentage points."""
    return f"{abs(100 * value):.1f} percentage points"


def epsilon(value: float | None) -> str:
    """Rounded up to two decimals: a privacy loss must never be printed as smaller than it is."""
    return DASH if value is None else f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def small(value: float | None) -> str:
    """0.00001 for 1e-05: plain readers count zeros more easily than exponents."""
    if value is None:
        return DASH
    return f"{value:.10f}".rstrip("0") if 1e-9 < value < 1e-3 else f"{value:g}"


def protects(unit: str | None) -> str:
    """The unit of privacy as one thing: "record" and "one record of one client" both read well."""
    if not unit:
        return "a unit that was not stated"
    return unit if unit.split()[0] in ("a", "an", "one") else f"one {unit}"


def interval(bounds: list[float] | tuple[float, float] | None, scale: float = 1.0, digits: int = 1) -> str:
    """8.1 to 12.0."""
    return DASH if bounds is None else f"{bounds[0] * scale:.{digits}f} to {bounds[1] * scale:.{digits}f}"


def span(bounds: list[float] | None) -> str:
    """36, or 36 to 40: the smallest and the largest of several figures."""
    if bounds is None:
        return DASH
    low, high = (f"{value:.3g}" for value in bounds)
    return low if low == high else f"{low} to {high}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """1 image, 2 images."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def mode_word(mode: str) -> str:
    """How people say it."""
    return {"train": "training mode", "eval": "inference mode"}.get(mode, mode)


AXES = ("strategy", "defense", "client_mode")
"""What tells one row of a report from another; seeds are pooled."""


def key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Where a row stands on each axis; rows of older versions name no strategy."""
    strategy, defense, mode = (str(row.get(axis) or "") for axis in AXES)
    return strategy, defense, mode


def panel(row: Mapping[str, Any]) -> tuple[str, str]:
    """What defenses are compared within: one strategy, one client mode."""
    return str(row.get("strategy") or ""), str(row["client_mode"])


def several(rows: Iterable[Mapping[str, Any]], axis: str) -> bool:
    """Whether rows (or cells) differ in an axis, so that it must be told."""
    return len({row.get(axis) or "" for row in rows}) > 1


def namer(cells: Sequence[Mapping[str, Any]], join: str = " in ") -> Callable[[Mapping[str, Any]], str]:
    """How to call the rows of a run with these cells: by the defense, and by what else there are several of.

    "dp-sgd", or "fedbuff/dp-sgd in training mode" with everything; with several strategies and one
    defense, "fedbuff".
    """
    named = [axis for axis in ("strategy", "defense") if several(cells, axis)] or ["defense"]
    modes = several(cells, "client_mode")

    def name(row: Mapping[str, Any]) -> str:
        text = "/".join(str(row.get(axis) or "") for axis in named)
        return f"{text}{join}{mode_word(row['client_mode'])}" if modes else text

    return name


def subject(row: dict[str, Any], undefended: set[str]) -> str:
    """Whose clients a row is about."""
    who = "undefended clients" if row["defense"] in undefended else f"clients under {row['defense']}"
    which = f" (strategy {row['strategy']})" if row.get("strategy") else ""
    return f"{who} in {mode_word(row['client_mode'])}{which}"
