"""By how much one run's figures exceed another's, each with what is known of its uncertainty.

Rates and areas come with intervals of their own. The interval of a difference of two of them is put together
from these by variance estimates recovery: G. Y. Zou and A. Donner, Construction of confidence limits about
effect measures: a general approach, Statistics in Medicine 27(10), 2008. For rates it is R. G. Newcombe's
hybrid score (Statistics in Medicine 17(8), 1998, method 10) with exact intervals in place of Wilson's. It
takes the two as independent: where the same people were attacked, it is rather too wide.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import t

from fedlab.audit.difference import difference
from fedlab.audit.scoring import VictimScore
from fedlab.report.compare_sides import Row, Side
from fedlab.report.knowledge import CEILING_DB
from fedlab.report.reading import key
from fedlab.report.rundir import Run, malformed


def reconstruction(base_side: Side, base: Row, side: Side, row: Row) -> Row | None:
    """By how much this run's attack gets more than the base's, in dB of mean PSNR over victims.

    `recovered` is the difference of the fractions of images that were recovered.
    """
    ours, theirs = _victims(side, row), _victims(base_side, base)
    same = base_side.data["run"]["dataset"]["sha256"] == side.data["run"]["dataset"]["sha256"]
    gain = difference(ours, theirs, ceiling=CEILING_DB, paired=same and ours.keys() == theirs.keys())
    if gain is None:
        return None
    share = "fraction_recovered"
    return {
        **asdict(gain),
        "ci95": list(gain.ci95) if gain.ci95 else None,
        "recovered": _independent(row[share], row["fraction_ci95"], base[share], base["fraction_ci95"]),
    }


def membership(base_side: Side, base: Row, side: Side, row: Row) -> Row | None:
    """By how much the area under this run's curve is larger than the base's."""
    return _independent(row["auc"], row["auc_ci95"], base["auc"], base["auc_ci95"])


def accuracy(base_side: Side, base: Row, side: Side, row: Row) -> Row:
    """By how much the accuracy of this run is above the base's; paired where both have the same seeds."""
    ours, theirs = _accuracies(side, row), _accuracies(base_side, base)
    shared = sorted(ours.keys() & theirs.keys())
    paired = len(shared) > 1 and ours.keys() == theirs.keys()
    gains = np.array([ours[seed] - theirs[seed] for seed in shared]) if paired else np.empty(0)
    mean, bounds = row["accuracy"] - base["accuracy"], None
    if paired:
        half = float(t.ppf(0.975, len(gains) - 1)) * float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        bounds = [float(gains.mean()) - half, float(gains.mean()) + half]
    return {"mean": mean, "ci95": bounds, "seeds": len(shared), "paired": paired}


def recovered_limits(
    value: float, bounds: tuple[float, float], other: float, others: tuple[float, float]
) -> tuple[float, float]:
    """Limits of value − other from the limits of each (Zou and Donner)."""
    gain = value - other
    low = gain - math.hypot(value - bounds[0], others[1] - other)
    high = gain + math.hypot(bounds[1] - value, other - others[0])
    return low, high


def _independent(value: Any, bounds: Any, other: Any, others: Any) -> Row | None:
    if value is None or other is None:
        return None
    known = bool(bounds) and bool(others)
    limits = list(recovered_limits(value, bounds, other, others)) if known else None
    return {"mean": value - other, "ci95": limits}


def _victims(side: Side, row: Row) -> dict[Hashable, VictimScore]:
    """The victims of a row by who they are: seed, round, client and records."""
    cells = {cell["name"]: cell for cell in side.run.cells if key(cell) == key(row)}
    found: dict[Hashable, VictimScore] = {}
    for file in side.run.attacks:
        if file["cell"] not in cells:
            continue
        if (file["attack"], file["threat_label"]) != (row["attack"], row.get("threat_label") or ""):
            continue
        with malformed(f"attacks/{file['cell']}/{file['file']}.json"):
            records = _records(side.run, file["cell"])
            for place, one in enumerate(file.get("victims") or []):
                score = VictimScore.from_dict(one)
                who = (score.round, score.client)
                found[cells[file["cell"]]["seed"], *who, records.get(who, (side.letter, place))] = score
    return found


def _records(run: Run, cell: str) -> dict[tuple[int, int], tuple[Any, ...]]:
    """(round, client) -> which records its victim had."""
    victims = run.truth.get(cell, {}).get("victims") or []
    return {(int(one["round"]), int(one["client"])): tuple(one["record_ids"]) for one in victims}


def _accuracies(side: Side, row: Row) -> dict[int, float]:
    """Test accuracy by seed."""
    cells = [cell for cell in side.run.cells if key(cell) == key(row) and cell["name"] in side.run.metrics]
    with malformed("metrics.json"):
        return {int(cell["seed"]): float(side.run.metrics[cell["name"]]["accuracy"]) for cell in cells}
