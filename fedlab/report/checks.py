"""What was measured of what is claimed: the mechanism checks, a lower bound on ε beside ε itself, and how far
an update can raise the chance of a reconstruction.

A lower bound above the proved ε, or a check that fails, means that what ran is not what was accounted for.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import epsilon, key, namer, percent
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]


def check_rows(run: Run, guarantees: list[Row]) -> list[Row]:
    """One row per pool of which anything was checked; `alarms` are sentences, and empty if all is well."""
    rows = []
    for place, cells in run.pools:
        files = [(cell["name"], run.checks[cell["name"]]) for cell in cells if cell["name"] in run.checks]
        if not files:
            continue
        proved = next((one for one in guarantees if key(one) == key(place)), {})
        with malformed(f"privacy checks of {place['defense']} ({place['client_mode']})"):
            row: Row = {
                **place,
                "epsilon": proved.get("epsilon"),
                "checks": [_check(name, one) for name, file in files for one in file.get("checks") or []],
                "one_run": [_one_run(name, file["one_run"]) for name, file in files if file.get("one_run")],
                "rero": _rero([file.get("rero") or [] for _, file in files]),
                "alarms": list(dict.fromkeys(str(f["alarm"]) for _, f in files if f.get("alarm"))),
            }
            rows.append(row | {"alarms": row["alarms"] + _crossed(row)})
    return rows


def alarms(rows: list[Row], run: Run) -> list[str]:
    """What has to stand on top of the report."""
    who = namer(run.cells)
    return [f"{who(row)}: {text}" for row in rows for text in row["alarms"]]


def _check(cell: str, one: Row) -> Row:
    return {
        "cell": cell,
        "name": str(one["name"]),
        "statistic": one.get("statistic"),
        "p": one.get("p"),
        "verdict": str(one.get("verdict") or ""),
        "words": str(one.get("words") or ""),
    }


def _one_run(cell: str, one: Row) -> Row:
    return {
        "cell": cell,
        "canaries": int(one["m"]),
        "guesses": int(one["guesses"]),
        "right": int(one["right"]),
        "epsilon_hat": None if one.get("epsilon_hat") is None else float(one["epsilon_hat"]),
        "confidence": float(one["confidence"]),
    }


def _crossed(row: Row) -> list[str]:
    """A lower bound above the upper one, where the run itself did not say so."""
    if row["epsilon"] is None or row["alarms"]:
        return []
    over = [one for one in row["one_run"] if (one["epsilon_hat"] or 0.0) > row["epsilon"]]
    return [
        f"the measured lower bound {one['epsilon_hat']:.2f} ({percent(one['confidence'])} confidence) exceeds"
        f" the proved ε = {epsilon(row['epsilon'])}: what ran is not what was accounted for"
        for one in over
    ]


def _rero(files: list[list[Row]]) -> list[Row]:
    """For each prior chance κ the largest γ of all trained models."""
    found: dict[float, Row] = {}
    for one in (one for file in files for one in file):
        kappa, gamma, upper = float(one["kappa"]), float(one["gamma"]), one.get("upper")
        worst = found.get(kappa)
        if worst is None or gamma > worst["gamma"]:
            found[kappa] = {
                "kappa": kappa,
                "gamma": gamma,
                "upper": None if upper is None else float(upper),
            }
    return [found[kappa] for kappa in sorted(found)]
