"""Two or more runs side by side: what was set otherwise, and what came of it.

The first run is the base: differences are of the others from it. They are paired where the same people were
attacked (the same records, client, round and seed) or the same seeds trained; elsewhere the two sides are
resampled on their own, and the difference is marked as such.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fedlab.errors import UsageError
from fedlab.report import compare_gains as gains
from fedlab.report.compare_curves import curves, tradeoff
from fedlab.report.compare_sides import LETTERS, Row, Side, opened
from fedlab.report.reading import AXES, key, plural

_IDLE = ("name", "claim", "runtime.", "checkpoint.", "audit.fail_on")
"""Keys of a scenario that change no figure, or how they begin: that they differ explains nothing."""

ATTACK_FIGURES = ("psnr_median", "psnr_max", "fraction_recovered", "ssim_median", "label_accuracy")


def compare(directories: Sequence[str | os.PathLike[str]]) -> Row:
    """Everything that two or more runs share or differ in, as strict JSON; see docs/runs.md.

    Raises:
        UsageError: fewer than two runs, more than 26, one given twice, or runs that share no metric.
        DataError: a directory is no run, its report is of another version, or a file is damaged.
        NewerRun: a later fedlab wrote one of them.
    """
    paths = [Path(one) for one in directories]
    if not 2 <= len(paths) <= len(LETTERS):
        raise UsageError(
            f"got {plural(len(paths), 'run')}; expected 2 to {len(LETTERS)}, as in: fedlab compare RUN RUN"
        )
    for index, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:index]]:
            raise UsageError(f"{path} is given twice; expected different runs")
    sides = opened(paths)
    return {
        "schema_version": 1,
        "runs": [_about(side) for side in sides],
        "settings": _settings(sides),
        "software": _software(sides),
        "attacks": _joined(sides, "attacks", _attack, gains.reconstruction),
        "membership": _joined(sides, "membership", _membership, gains.membership),
        "utility": _joined(sides, "utility", _utility, gains.accuracy),
        "guarantees": _joined(sides, "guarantees", _guarantee, None),
        "curves": curves(sides),
        "tradeoff": tradeoff(sides),
        "weights": _weights(sides),
    }


def _about(side: Side) -> Row:
    run = side.data["run"]
    return {
        "letter": side.letter,
        "directory": str(side.run.directory),
        "name": run["name"],
        "label": side.run.directory.resolve().name,
        "threshold_db": side.data["threshold_db"],
        "status": run["status"],
        "dataset_sha256": run["dataset"]["sha256"],
        "headline": side.data["verdict"]["headline"],
        "gates": [
            {name: one[name] for name in ("expression", "verdict")} for one in side.data.get("gates") or []
        ],
    }


def _settings(sides: Sequence[Side]) -> list[Row]:
    """Keys of the resolved scenarios that differ, in the order of the first that has them."""
    flat = [dict(_leaves(side.run.scenario)) for side in sides]
    found = []
    for name in dict.fromkeys(name for one in flat for name in one):
        if name.startswith(_IDLE):
            continue
        values = [one.get(name) for one in flat]
        if any(value != values[0] for value in values):
            found.append({"key": name, "values": values})
    return found


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """`defenses.dp-sgd.noise_multiplier`: entries of a list go by their labels."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = {str(one.get("label") or one.get("name") or index): one for index, one in enumerate(value)}
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "label":
                yield from _leaves(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _software(sides: Sequence[Side]) -> list[Row]:
    versions = [side.data["run"]["versions"] for side in sides]
    names = sorted({name for one in versions for name in one})
    rows = [{"key": name, "values": [one.get(name) for one in versions]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def _joined(sides: Sequence[Side], table: str, figures: Any, gain: Any) -> list[Row]:
    """One row per attack, threat and pool that any run has; `runs` and `differences` are in their order."""
    tables = [side.rows(table) for side in sides]
    joined = []
    for place in dict.fromkeys(place for one in tables for place in one):
        rows = [one.get(place) for one in tables]
        names = ("attack", "threat_label") if table in ("attacks", "membership") else ()
        about = dict(zip(("attack", "threat_label", *AXES), place, strict=True))
        first: Row = {name: about[name] for name in (*names, *AXES)}
        first["runs"] = [None if row is None else figures(row) for row in rows]
        if gain is not None:
            base = rows[0]
            first["differences"] = [
                None if base is None or row is None else gain(sides[0], base, side, row)
                for side, row in zip(sides[1:], rows[1:], strict=True)
            ]
        joined.append(first)
    return joined


def _attack(row: Row) -> Row:
    return {
        **{name: row[name] for name in ATTACK_FIGURES},
        "control": row["control"]["psnr_median"],
        **{name: row[name] for name in ("recovered", "images", "victims", "level", "reading")},
    }


def _membership(row: Row) -> Row:
    rates = {f"tpr_at_fpr_{one['at']:g}": one["rate"] for one in row["powers"]}
    return {"auc": row["auc"], "auc_ci95": row["auc_ci95"], **rates, "control": row["control"]["auc"]}


def _utility(row: Row) -> Row:
    wire = row.get("wire") or {}
    return {
        **{name: row[name] for name in ("accuracy", "accuracy_ci95", "accuracy_cost", "loss", "seeds")},
        "worst_client": row["per_client"]["worst"],
        "received": wire.get("received"),
        "sent": wire.get("sent"),
        "virtual_seconds": row.get("virtual_seconds"),
    }


def _guarantee(row: Row) -> Row:
    return {name: row[name] for name in ("epsilon", "delta", "unit", "adjacency", "reason")}


def _weights(sides: Sequence[Side]) -> list[Row]:
    """One row per trained model that any run has; `equal` is about the runs that have it."""
    tables = [
        {(*key(cell), int(cell["seed"])): str(cell.get("weights_sha256") or "") for cell in side.run.cells}
        for side in sides
    ]
    rows = []
    for place in dict.fromkeys(place for one in tables for place in one):
        hashes = [one.get(place) for one in tables]
        known = [one for one in hashes if one]
        *axes, seed = place
        rows.append(
            {
                **dict(zip(AXES, axes, strict=True)),
                "seed": seed,
                "hashes": hashes,
                "equal": len(set(known)) == 1 if len(known) > 1 else None,
            }
        )
    return rows
