"""What was measured of what is claimed: the mechanism checks, a lower bound on ε beside ε itself, and how far
an update can raise the chance of a reconstruction.

A lower bound above the proved ε, or a check that fails, means that what ran is not what was accounted for.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import epsilon, key, namer, percent
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]


def alarms_of(file: Row) -> list[str]:
    """What contradicts the proof of one trained model, in sentences: as its file says, or by its figures."""
    with malformed("privacy checks"):
        found = [str(file["alarm"])] if file.get("alarm") else []
        one = _one_run("", file["one_run"]) if file.get("one_run") and not found else None
        if one is not None and one["claimed"] is not None and (one["epsilon_hat"] or 0.0) > one["claimed"]:
            found.append(
                f"the measured lower bound {one['epsilon_hat']:.2f} ({percent(one['confidence'])} confidence)"
                f" exceeds ε = {epsilon(one['claimed'])}, which is claimed of that training"
            )
        return found


def check_rows(run: Run, guarantees: list[Row]) -> list[Row]:
    """One row per pool of which anything was checked; `alarms` are sentences, and empty if all is well."""
    rows = []
    for place, cells in run.pools:
        files = [(cell["name"], run.checks[cell["name"]]) for cell in cells if cell["name"] in run.checks]
        if not files:
            continue
        proved = next((one for one in guarantees if key(one) == key(place)), {})
        with malformed(f"privacy checks of {place['defense']} ({place['client_mode']})"):
            spoken = [text for _, file in files for text in alarms_of(file)]
            unproved = (
                ["a check raised an alarm, so that nothing is proved of what ran"]
                if spoken
                else [str(file["why_no_rero"]) for _, file in files if file.get("why_no_rero")]
            )
            rows.append(
                {
                    **place,
                    "epsilon": proved.get("epsilon"),
                    "claimed": proved.get("claimed"),
                    "checks": [_check(name, one) for name, file in files for one in file.get("checks") or []],
                    "one_run": [
                        _one_run(name, file["one_run"]) for name, file in files if file.get("one_run")
                    ],
                    "why_no_one_run": next(
                        (str(file["why_no_one_run"]) for _, file in files if file.get("why_no_one_run")), None
                    ),
                    "rero": [] if unproved else _rero([file.get("rero") or [] for _, file in files]),
                    "why_no_rero": next(iter(unproved), None),
                    "alarms": list(dict.fromkeys(spoken)),
                }
            )
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
        "claimed": None if one.get("epsilon") is None else float(one["epsilon"]),
    }


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
