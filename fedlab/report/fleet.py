"""The fleet: what training took in time, uploads and bytes, under each strategy, and who took part.

One row per (strategy, defense, client mode), over its seeds. Ratios compare with the first synchronous
strategy under the same defense and mode, seed by seed. Runs whose devices are all alike and whose only
strategy is synchronous have nothing to tell here, and runs of older versions do not know it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import t

from fedlab.report.participation import left_out, of_classes, of_tenths
from fedlab.report.rundir import Run, malformed
from fedlab.report.timeline import timeline

Row = dict[str, Any]
MEASURES = ("seconds", "uploads", "bytes")
"""What loss is drawn against, and what a target costs."""


def fleet(run: Run) -> Row | None:
    """What report.json says of the fleet; None where there is nothing to tell."""
    pools: list[tuple[dict[str, str], list[tuple[int, Row]]]] = []
    with malformed("metrics.json"):
        for place, cells in run.pools:
            known = [
                (cell["seed"], run.metrics[cell["name"]]) for cell in cells if cell["name"] in run.metrics
            ]
            members = [(seed, measured) for seed, measured in known if measured.get("traffic")]
            if members:
                pools.append((place, members))
        if not _telling(pools):
            return None
        rows = [_row(run, place, members) for place, members in pools]
        for row in rows:
            peers = _peers(rows, row)
            base = next((one for one in peers if not one["asynchronous"]), peers[0])
            row["against"] = base["name"]
            row["ratio"] = {name: _ratio(base, row, name) for name in MEASURES}
            row["left_out"] = left_out(row)
        for row in rows:
            end = min(float(one["window"]["end"]) for one in _peers(rows, row))
            row["timeline"] = timeline(row["window"], end)
        for row in rows:
            del row["window"]  # the timeline is what is drawn of it
        clocks = {str(measured["traffic"].get("clock")) for _, members in pools for _, measured in members}
        return {"clock": "real" if "real" in clocks else "virtual", "target": _target(run), "rows": rows}


def _telling(pools: list[tuple[dict[str, str], list[tuple[int, Row]]]]) -> bool:
    """Whether the fleet is worth a section."""
    measured = [one for _, members in pools for _, one in members]
    speeds = [one["traffic"].get("speeds") or {} for one in measured]
    return (
        len({place["strategy"] for place, _ in pools}) > 1
        or any(_asynchronous(one) for one in measured)
        or any(len(one["traffic"]["classes"]) > 1 for one in measured)
        or any(one.get("fastest") != one.get("slowest") for one in speeds)
    )


def _asynchronous(measured: Row) -> bool:
    return bool((measured.get("schedule") or {}).get("concurrency"))


def _row(run: Run, place: dict[str, str], members: list[tuple[int, Row]]) -> Row:
    measured = [one for _, one in members]
    traffic = [one["traffic"] for one in measured]
    reached = [_reached(one) for one in measured]
    return {
        **place,
        "name": place["strategy"] or str(run.strategies[0].get("name") or "strategy"),
        "asynchronous": any(_asynchronous(one) for one in measured),
        "seeds": [seed for seed, _ in members],
        "reached": {name: _mean([one[name] for one in reached if one is not None]) for name in MEASURES}
        | {"seeds": sum(one is not None for one in reached), "each": reached},
        "total": {
            name: _mean([one.get(name) for one in traffic])
            for name in ("seconds", "uploads", "downloads", "aborted", "received", "sent")
        }
        | {"bytes": _mean([float(one["received"]) + float(one["sent"]) for one in traffic])},
        "schedule": _schedule([one["schedule"] for one in measured if one.get("schedule")]),
        "courses": [
            {"seed": seed, "points": [_point(point) for point in one["rounds"] if "seconds" in point]}
            for seed, one in members
        ],
        "devices": traffic[0].get("devices"),
        "speeds": traffic[0].get("speeds"),
        "window": traffic[0]["window"],
        "tenths": of_tenths(traffic),
        "classes": of_classes(traffic),
    }


def _target(run: Run) -> Row | None:
    """`strategy.target`, if it is the same for all strategies: {"loss": 0.75}."""
    first, *others = [one.get("target") for one in run.strategies]
    return dict(first) if isinstance(first, dict) and all(one == first for one in others) else None


def _point(row: Row) -> Row:
    """One evaluation: what had been spent, and how good the model was."""
    return {
        "seconds": float(row["seconds"]),
        "uploads": int(row["uploads"]),
        "bytes": int(row["received"]) + int(row["sent"]),
        "loss": row.get("loss"),
        "accuracy": row.get("accuracy"),
    }


def _reached(measured: Row) -> Row | None:
    """What the target cost; None if it was never met."""
    found = measured.get("reached")
    if not found:
        return None
    known = found.get("received") is not None and found.get("sent") is not None
    return {
        "seconds": float(found["seconds"]),
        "uploads": int(found["uploads"]),
        "bytes": int(found["received"]) + int(found["sent"]) if known else None,
    }


def _schedule(found: list[Row]) -> Row | None:
    """Facts of an asynchronous schedule: staleness over all seeds, counts on average."""
    if not found or not found[0].get("concurrency"):
        return None
    first, counts = found[0], dict[int, int]()
    for one in found:
        for staleness, uploads in one.get("staleness") or []:
            counts[int(staleness)] = counts.get(int(staleness), 0) + int(uploads)
    buffer = first.get("buffer")
    return {
        "name": str(first.get("name")),
        "concurrency": first["concurrency"],
        "buffer": buffer,
        "weight": str(first["weight"]) if first.get("weight") else None,
        "staleness": [[staleness, counts[staleness]] for staleness in sorted(counts)],
        "mean_staleness": _mean([one.get("mean_staleness") for one in found]),
        # Tasks that share the clients have each a part of them, which may change.
        "expected_staleness": first["concurrency"] / buffer if buffer and not first.get("tasks") else None,
        **{
            name: _mean([one.get(name) for one in found])
            for name in ("discarded", "left_in_buffer", "under_way")
        },
    }


def _peers(rows: list[Row], row: Row) -> list[Row]:
    """Rows that differ from `row` in the strategy alone, itself among them."""
    return [one for one in rows if all(one[key] == row[key] for key in ("defense", "client_mode"))]


def _ratio(base: Row, row: Row, name: str) -> Row | None:
    """How many times more `base` took to the target, seed by seed; None unless both met it with all seeds."""
    if base is row:
        return None
    first = dict(zip(base["seeds"], base["reached"]["each"], strict=True))
    pairs = [(first.get(seed), one) for seed, one in zip(row["seeds"], row["reached"]["each"], strict=True)]
    ratios = [
        before[name] / after[name]
        for before, after in pairs
        if before is not None and after is not None and before[name] is not None and after[name]
    ]
    return _mean(ratios) if len(ratios) == len(row["seeds"]) else None


def _mean(values: Iterable[float | None]) -> Row | None:
    """Mean over seeds, with a 95 % interval (Student's t) if there are several; None without any."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    mean, count = float(np.mean(known)), len(known)
    if count == 1:
        return {"mean": mean, "ci95": None}
    half = float(t.ppf(0.975, count - 1)) * float(np.std(known, ddof=1)) / math.sqrt(count)
    return {"mean": mean, "ci95": [mean - half, mean + half]}
