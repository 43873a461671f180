"""What of several runs is drawn over each other: accuracy by round, and leakage against utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedlab.report.compare_sides import Row, Side
from fedlab.report.document import undefended_labels
from fedlab.report.frontier import frontier
from fedlab.report.reading import AXES, key
from fedlab.report.rundir import malformed

_TRADE = (
    "accuracy", "accuracy_ci95", "attack", "psnr_median", "psnr_max", "recovered", "images", "control",
    "level", "epsilon", "undefended",
)  # fmt: skip


def curves(sides: Sequence[Side]) -> list[Row]:
    """Per row of any run, the course of test accuracy in each: `runs` has a list of seeds with their points.

    Points are [round, accuracy]; None stands for a run that has no such row.
    """
    return _joined([_courses(side) for side in sides])


def tradeoff(sides: Sequence[Side]) -> list[Row]:
    """Per row of any run, the strongest attack's leakage and the accuracy in each: a report's frontier."""
    tables: list[dict[tuple[str, ...], Any]] = []
    for side in sides:
        rows = frontier(
            side.data.get("attacks") or [],
            side.data.get("utility") or [],
            side.data.get("guarantees") or [],
            undefended_labels(side.run),
        )
        tables.append({key(row): {name: row[name] for name in _TRADE} for row in rows})
    return _joined(tables)


def _courses(side: Side) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for cell in side.run.cells:
        with malformed(f"{side.run.directory}: metrics.json"):
            rounds = side.run.metrics.get(cell["name"], {}).get("rounds") or []
            points = [
                [int(one["round"]), float(one["accuracy"])] for one in rounds if one["accuracy"] is not None
            ]
        if points:
            found.setdefault(key(cell), []).append({"seed": int(cell["seed"]), "points": points})
    return found


def _joined(tables: Sequence[dict[tuple[str, ...], Any]]) -> list[Row]:
    places = dict.fromkeys(place for one in tables for place in one)
    return [
        {**dict(zip(AXES, place, strict=True)), "runs": [one.get(place) for one in tables]}
        for place in places
    ]
