"""Who is exposed most: clients, classes and records, by the best that any attack made of them.

Record ids only; what a record looks like stands in the gallery, if the run was told to keep pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from fedlab.audit.scoring import VictimScore
from fedlab.report.reading import reached
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]

MOST = 10
"""Records that are named, per pool."""


def exposure(run: Run) -> list[Row]:
    """One row per pool that was attacked: `clients`, `classes` and `records`, the most exposed first.

    A record's leak is the highest PSNR that any attack of the run's own attacker reached on it, with or
    without the use of what it knows of the defense: the attacker that the verdict counts.
    """
    rows = []
    for place, cells in run.pools:
        leaks = [leak for cell in cells for leak in _leaks(run, cell)]
        if leaks:
            rows.append(
                {
                    **place,
                    "clients": _clients(run, leaks),
                    "classes": _groups(run, leaks, "label"),
                    "records": sorted(
                        (_record(one) for one in leaks if one["psnr"] is not None),
                        key=lambda one: (-one["psnr"], one["record"], one["seed"]),
                    )[:MOST],
                }
            )
    return rows


def _leaks(run: Run, cell: Row) -> list[Row]:
    """One entry per attacked record: the best of all attacks."""
    found: dict[Hashable, Row] = {}
    with malformed(f"truth/{cell['name']}.json"):
        for victim in run.truth.get(cell["name"], {}).get("victims") or []:
            where = victim["round"], victim["client"]
            who = "+".join(map(str, victim["clients"])) if "clients" in victim else str(victim["client"])
            for place, (record, label) in enumerate(zip(victim["record_ids"], victim["labels"], strict=True)):
                found[(*where, place)] = {
                    "cell": cell["name"], "seed": cell["seed"], "client": who, "record": int(record),
                    "label": int(label), "round": int(victim["round"]), "psnr": None, "attack": None,
                }  # fmt: skip
    tried = False
    for file in reached(one for one in run.attacks if one["cell"] == cell["name"]):
        with malformed(f"attacks/{cell['name']}/{file['file']}.json"):
            for score in map(VictimScore.from_dict, file.get("victims") or []):
                tried = True
                for place, value in enumerate(score.psnr):
                    leak = found.get((score.round, score.client, place))
                    if leak is not None and value is not None and value > (leak["psnr"] or -1.0):
                        leak["psnr"], leak["attack"] = value, file["attack"]
    return list(found.values()) if tried else []


def _clients(run: Run, leaks: list[Row]) -> list[Row]:
    rows = _groups(run, leaks, "client", "seed", "cell")
    for row in rows:
        cell = row.pop("cell")
        with malformed("metrics.json"):
            of = {str(one["client"]): one for one in run.metrics.get(cell, {}).get("per_client") or []}
            row["accuracy"] = of.get(row["client"], {}).get("accuracy")
        row["epsilon"] = (run.privacy.get(cell, {}).get("per_client") or {}).get(row["client"])
    return rows


def _groups(run: Run, leaks: list[Row], *names: str) -> list[Row]:
    """Records put together by what they have in common; the group with the highest leak first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for one in leaks:
        groups.setdefault(tuple(one[name] for name in names), []).append(one)
    rows = [
        {**dict(zip(names, group, strict=True)), **_leak(members, run.threshold)}
        for group, members in groups.items()
    ]
    return sorted(rows, key=lambda row: (-(row["psnr_max"] or 0.0), -(row["psnr_median"] or 0.0), str(row)))


def _leak(members: Iterable[Row], threshold: float) -> Row:
    members = list(members)
    known = [one for one in members if one["psnr"] is not None]
    worst = max(known, key=lambda one: one["psnr"], default=None)
    return {
        "records": len(members),
        "recovered": sum(one["psnr"] >= threshold for one in known),
        "psnr_max": worst["psnr"] if worst else None,
        "psnr_median": float(np.median([one["psnr"] for one in known])) if known else None,
        "attack": worst["attack"] if worst else None,
    }


def _record(leak: Row) -> Row:
    return {name: leak[name] for name in ("record", "label", "client", "round", "seed", "psnr", "attack")}
