"""The map of settings: what each attack took at each point, and what the client mode makes of it.

A victim's score is the mean PSNR of its images that an attack answered with. Every point has the same
victims, so that differences are taken victim by victim. "best" is, at each point and in each mode, the attack
with the highest median: an upper envelope, for which the truth was looked at, and no attack that anybody
could run. Intervals are 95 % percentile bootstraps of medians over victims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedlab.audit.scoring import RESAMPLES
from fedlab.report import map_words
from fedlab.report.rundir import Run, malformed
from fedlab.seeds import numpy_generator

Row = dict[str, Any]
Victim = tuple[int, int, int]
"""Seed, round, client."""
Scores = dict[Victim, float]


def client_map(run: Run) -> Row | None:
    """What report.json says of the map; None where the scenario has none, or none was begun."""
    data = run.map
    if data is None:
        return None
    with malformed("map.json"):
        modes, attacks = [str(one) for one in data["modes"]], [str(one) for one in data["attacks"]]
        axes = [_axis(one) for one in data["axes"]]
        best: dict[str, dict[str, Scores]] = {}
        points = []
        for one in data["points"]:
            row, best[one["name"]] = _point(one, modes, attacks, run.threshold)
            points.append(row)
        base = best.get(points[0]["name"], {}) if points else {}
        for row in points:
            mine = best[row["name"]]
            row["difference"] = _paired(mine.get("eval", {}), mine.get("train", {}))
            row["against_base"] = (
                {mode: _paired(mine.get(mode, {}), base.get(mode, {})) for mode in modes}
                if row["overrides"]
                else {}
            )
        found: Row = {
            "design": str(data["design"]),
            "modes": modes,
            "attacks": attacks,
            "axes": axes,
            "points": points,
            "planned": len(data["listed"]),
            "basin": _basin(data["basin"], run.threshold),
        }
        return found | {"findings": map_words.findings(found, run.threshold)}


def _axis(one: Row) -> Row:
    """A panel: each value, and the point at which it is the only thing that is turned."""
    return {
        "key": str(one["key"]),
        "name": map_words.called(str(one["key"])),
        "ordered": all(type(value) in (int, float) for value in one["values"]),
        "values": [
            {"value": map_words.written(value), "point": str(point)}
            for value, point in zip(one["values"], one["points"], strict=True)
        ],
    }


def _point(
    one: Row, modes: Sequence[str], attacks: Sequence[str], threshold: float
) -> tuple[Row, dict[str, Scores]]:
    """A point's row, and in each mode the scores of the attack that did best there."""
    rows, best = [], {}
    for mode in modes:
        cells = [cell for cell in one["cells"] if cell["client_mode"] == mode]
        if not cells:
            continue
        tried = []
        scores: dict[str, Scores] = {}
        for label in attacks:
            told = [(int(cell["seed"]), cell["attacks"][label]) for cell in cells]
            row, scores[label] = _attack(label, told, threshold)
            tried.append(row)
        answered = [row for row in tried if row["psnr_median"] is not None]
        top = max(answered, key=lambda row: float(row["psnr_median"]), default=None)
        if top is not None:
            best[mode] = scores[top["attack"]]
        controls = [row["control_median"] for row in tried if row["control_median"] is not None]
        rows.append(
            {
                "client_mode": mode,
                "accuracy": float(np.mean([cell["accuracy"] for cell in cells])),
                "attacks": tried,
                "best": top,
                "control": max(controls, default=None),
            }
        )
    overrides = dict(one["overrides"])
    row = {
        "name": str(one["name"]),
        "label": map_words.setting(overrides),
        "overrides": overrides,
        "failure": one["failure"],
        "modes": rows,
    }
    return row, best


def _attack(label: str, told: Sequence[tuple[int, Row]], threshold: float) -> tuple[Row, Scores]:
    """One attack at one point in one mode, over the seeds."""
    victims = [(seed, one) for seed, cell in told for one in cell["victims"]]
    images = [value for _, one in victims for value in one["psnr"]]
    recovered = sum(value is not None and value >= threshold for value in images)
    scores = _scores(victims)
    control = _scores([(seed, one) for seed, cell in told for one in cell["control"]])
    refusals = [one["refusal"] for _, one in victims if one.get("refusal")]
    errors = [cell["error"] for _, cell in told if cell["error"]]
    certificates = [one.get("certificates") or () for _, one in victims]
    row = {
        "attack": label,
        "psnr": [scores[victim] for victim in sorted(scores)],
        "psnr_median": median(list(scores.values())),
        "psnr_ci95": interval(list(scores.values())),
        "recovered": recovered,
        "images": len(images),
        "victims": len(victims),
        "proved": sum(any(one.get("verdict") == "unique" for one in each) for each in certificates),
        "control_median": median(list(control.values())),
        "reason": (errors + refusals or [None])[0],
        "failed": any(cell["failed"] for _, cell in told),
    }
    return row, scores


def _scores(victims: Sequence[tuple[int, Row]]) -> Scores:
    """Mean PSNR of each victim's answered images; a victim without an answer has no score."""
    found = {}
    for seed, one in victims:
        answered = [float(value) for value in one["psnr"] if value is not None]
        if answered:
            found[seed, int(one["round"]), int(one["client"])] = sum(answered) / len(answered)
    return found


def _paired(one: Scores, other: Scores) -> Row | None:
    """By how much `one` lies above `other`, victim by victim; None without two victims in both."""
    both = sorted(one.keys() & other.keys())
    if len(both) < 2:
        return None
    gaps = [one[victim] - other[victim] for victim in both]
    return {"median": median(gaps), "ci95": interval(gaps), "victims": len(both)}


def _basin(data: Row | None, threshold: float) -> Row | None:
    """The basin of attraction: in each mode, for each share of noise, where the attack began and ended."""
    if data is None:
        return None
    curves: dict[str, list[Row]] = {}
    for mode in dict.fromkeys(str(one["client_mode"]) for one in data["curves"]):
        for share in data["shares"]:
            ones = [one for one in data["curves"] if (one["client_mode"], one["share"]) == (mode, share)]
            ended, began, control = (
                [_mean(images) for one in ones for images in one[key] if _mean(images) is not None]
                for key in ("victims", "start", "control")
            )
            curves.setdefault(mode, []).append(
                {
                    "share": float(share),
                    "start": median(began),
                    "psnr_median": median(ended),
                    "psnr_ci95": interval(ended),
                    "control_median": median(control),
                    "victims": len(ended),
                    "reason": next((one["error"] for one in ones if one["error"]), None),
                }
            )
    found: Row = {
        "attack": str(data["attack"]),
        "refusal": data["refusal"],
        "curves": [{"client_mode": mode, "points": points} for mode, points in curves.items()],
    }
    return found | {"findings": map_words.of_basin(found, threshold)}


def _mean(values: Sequence[float | None]) -> Any:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if values else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap of the median; None for fewer than two values."""
    if len(values) < 2:
        return None
    picks = numpy_generator(0, "bootstrap").integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(np.asarray(values)[picks], axis=1), [0.025, 0.975])
    return float(low), float(high)
