"""Several tasks on one fleet: how good each became, when it met its target, and when the last one did.

One row per (strategy, defense, client mode), over its seeds. The makespan is the time at which the last task
has met its target; ratios compare it with that of the first strategy, seed by seed.
"""

from __future__ import annotations

import statistics
from typing import Any

from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]


def task_rows(run: Run) -> list[Row]:
    """What report.json says of several tasks; nothing where there is one."""
    rows: list[Row] = []
    with malformed("metrics.json"):
        for place, cells in run.pools:
            known = {cell["seed"]: run.metrics[cell["name"]] for cell in cells if cell["name"] in run.metrics}
            measured = {seed: one for seed, one in known.items() if one.get("tasks")}
            if measured:
                spans = {seed: _seconds(one) for seed, one in measured.items()}
                rows.append(
                    {
                        **place,
                        "name": place["strategy"] or str(run.strategies[0].get("name") or "strategy"),
                        "seeds": list(measured),
                        "tasks": _tasks(list(measured.values())),
                        "makespan": _mean(list(spans.values())),
                        "makespans": [spans[seed] for seed in measured],
                    }
                )
    for row in rows:
        first = next(one for one in rows if all(one[key] == row[key] for key in ("defense", "client_mode")))
        pairs = list(zip(first["makespans"], row["makespans"], strict=False))
        whole = (
            row is not first and first["seeds"] == row["seeds"] and all(None not in pair for pair in pairs)
        )
        row["against"] = first["name"]
        row["ratio"] = statistics.fmean(after / before for before, after in pairs) if whole else None
    return rows


def _tasks(measured: list[Row]) -> list[Row]:
    """One entry per task: means over seeds; the time only where all seeds met the target."""
    found = []
    for index, first in enumerate(measured[0]["tasks"]):
        ones = [one["tasks"][index] for one in measured]
        losses = [one["loss"] for one in ones]
        found.append(
            {
                "label": str(first["label"]),
                "target": first.get("target"),
                "accuracy": statistics.fmean(float(one["accuracy"]) for one in ones),
                "loss": None if None in losses else statistics.fmean(map(float, losses)),
                "seconds": _mean([_seconds(one) for one in ones]),
                "met": sum(one.get("reached") is not None for one in ones),
            }
        )
    return found


def _seconds(one: Row) -> float | None:
    """When a target was met; None if it was not."""
    reached = one.get("reached")
    return float(reached["seconds"]) if reached else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
