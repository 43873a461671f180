"""How runs are shown in a terminal: a line each, or one on a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fedlab.cli.output import grid
from fedlab.registry import Entry, Status

if TYPE_CHECKING:
    from fedlab.registry.headline import Headline, Range

STYLES = {
    Status.RUNNING: "cyan",
    Status.FINISHED: "green",
    Status.FAILED: "red",
    Status.INTERRUPTED: "yellow",
    Status.KILLED: "yellow",
    Status.DAMAGED: "red",
    Status.NEWER: "magenta",
}
WIDE = 110
"""Columns from which on there is room for the claim."""
LONGEST = 60
"""Letters of a claim or a reason in a list."""
NUMBERS = ("cells", "accuracy", "strongest leak", "ε", "size")


def listed(entries: Sequence[Entry], console: Console) -> None:
    """A line per run or sweep. A claim, or why a run is not well, stands at the end of its line, or below."""
    wide = console.width >= WIDE
    scenarios = any(not one.name.startswith(f"{one.scenario}-") for one in entries)
    tagged = any(one.marks.tags for one in entries)
    heads = ["run", "status", "started", *(["scenario"] if scenarios else []), *NUMBERS]
    table = grid(*heads, *(["tags"] if tagged else []), *(["claim, or reason"] if wide else []))
    for column in table.columns:
        column.justify = "right" if column.header in NUMBERS and column.header != "strongest leak" else "left"
        column.no_wrap = column.header in ("status", "started", "size", "cells")
    for one in entries:
        figures = _figures(one.headline)
        cells = [
            Text(one.name, style="bold"),
            Text(one.status, style=STYLES[one.status]),
            Text(_when(one.started)),
            *([Text(one.scenario)] if scenarios else []),
            *map(Text, (_cells(one), *figures, bytes_(one.size))),
            *([Text(" ".join(one.marks.tags), style="cyan")] if tagged else []),
            *([Text(_line(one), style="dim")] if wide else []),
        ]
        table.add_row(*cells)
    console.print(table)
    if not wide:
        for one in entries:
            if one.reason:
                console.print(Text(f"{one.name}: {_line(one)}", style="dim"))


def shown(one: Entry, console: Console) -> None:
    """What is known of a run, a fact per line."""
    table = grid("", "")
    table.show_header = False
    cells = "" if one.planned is None else f"{one.trained} of {one.planned}"
    facts = {
        "sweep" if one.sweep else "run": str(one.path),
        "status": one.status,
        "why": one.reason,
        "scenario": one.scenario,
        "claim": one.claim,
        "started": _when(one.started),
        "finished": _when(one.finished),
        "cells": f"{cells} finished" if one.sweep and cells else "",
        "turned": _turned(one.axes),
        "trained": f"{cells} cells" if cells and not one.sweep else "",
        **_told(one.headline),
        "size": bytes_(one.size),
        "tags": " ".join(one.marks.tags),
        "note": one.marks.note,
        "next": _next(one),
    }
    for name, value in facts.items():
        if value:
            style = STYLES[one.status] if name == "status" else ""
            table.add_row(Text(name, style="bold"), Text(str(value), style=style))
    console.print(table)


def _turned(axes: Mapping[str, Sequence[Any]]) -> str:
    """`clients.batch_size = 1, 4; seed = 1, 2`"""
    return "; ".join(f"{key} = {', '.join(map(str, values))}" for key, values in axes.items())


def bytes_(number: int) -> str:
    """Of a disk: 950 B, 8.3 kB, 21 MB."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000.0
    return f"{value:,.1f} TB"


def _figures(known: Headline | None) -> tuple[str, str, str]:
    """Accuracy, strongest leak and ε, in few letters."""
    if known is None:
        return "–", "–", "–"
    leak = "–"
    if known.psnr is not None:
        worst = f"{known.psnr:.1f}", f"{known.recovered}/{known.images}"
        least = (f"{known.least[0]:.1f}", f"{known.least[1]}/{known.least[2]}") if known.least else worst
        median, images = (
            one if one == other else f"{one}–{other}" for one, other in zip(least, worst, strict=True)
        )
        leak = f"{known.attack} {median} dB, {images}"
    elif known.auc is not None:
        leak = f"membership, area {known.auc:.3f}"
    return _percent(known.accuracy), leak, _epsilon(known)


def _told(known: Headline | None) -> dict[str, str]:
    """The same, with room for words."""
    if known is None:
        return {}
    accuracy, leak, epsilon = _figures(known)
    failed, gates = known.gates
    return {
        "verdict": known.text,
        "accuracy": accuracy.strip("–"),
        "strongest leak": leak.strip("–"),
        "membership": "" if known.auc is None else f"area under the curve at most {known.auc:.3f}",
        "ε": epsilon if epsilon != "–" else "no formal guarantee",
        "gates": f"{failed} of {gates} failed" if gates else "",
    }


def _percent(bounds: Range | None) -> str:
    if bounds is None:
        return "–"
    low, high = (f"{100 * one:.1f}" for one in bounds)
    return f"{_span(low, high)} %"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"


def _epsilon(known: Headline) -> str:
    """Rounded up: a privacy loss is never printed as smaller than it is; "none" where nothing is proved."""
    if known.epsilon is None:
        return "–"
    low, high = (f"{math.ceil(one * 100 - 1e-9) / 100:.2f}" for one in known.epsilon)
    text = _span(low, high)
    return f"{text}, or none" if known.unproved else text


def _cells(one: Entry) -> str:
    return "–" if one.planned is None else f"{one.trained}/{one.planned}"


def _line(one: Entry) -> str:
    text = " ".join((one.reason or one.claim).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _when(text: str) -> str:
    """Local time, to the minute; what is no time stays as it is."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return text[:20]


def _next(one: Entry) -> str:
    """The command that most people want now."""
    if one.status in (Status.INTERRUPTED, Status.KILLED):
        return f"fedlab resume {one.path}"
    if one.status is Status.FAILED:
        return f"fedlab resume {one.path}, once the cause is gone"
    if one.status is Status.FINISHED:
        return str(one.path / "report.html")
    return ""
