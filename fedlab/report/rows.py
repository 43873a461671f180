"""The rows of the report: attack scores, utility and guarantees, pooled over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import t

from fedlab.audit.scoring import NO_ANSWER, Summary, VictimScore, binomial_interval, summarise
from fedlab.report.checks import alarms_of
from fedlab.report.course import course
from fedlab.report.proofs import merged, proofs
from fedlab.report.reading import AXES, SILENT, key, level
from fedlab.report.rundir import Run, malformed

_PSNR = ("psnr_median", "psnr_max", "psnr_mean", "psnr_ci95")
_NO_VICTIM = (
    "no victim: no observed update was eligible (e.g. no Poisson batch of one record); observe more rounds"
)
_NO_UPDATE = "no victim: no valid update of the observed rounds reached the server; see the limits for why"
_DECLINED = f"{NO_ANSWER}refused to train: "
_LABELS = ("label_accuracy", "label_accuracy_ci95")
_SHARED = ("ssim_median", *_LABELS, "fraction_recovered", "fraction_ci95", "recovered", "images")


def attack_rows(run: Run) -> list[dict[str, Any]]:
    """One row per attack, threat and pool: scores over all victims of all seeds, the control beside them."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    cells = {cell["name"]: cell for cell in run.cells}
    for one in run.attacks:
        groups.setdefault((one["attack"], one["threat_label"], *key(cells[one["cell"]])), []).append(one)
    return [
        _attack_row(run, attack, label, dict(zip(AXES, axes, strict=True)), files)
        for (attack, label, *axes), files in groups.items()
    ]


def _attack_row(
    run: Run, attack: str, label: str, axes: dict[str, str], files: list[dict[str, Any]]
) -> dict[str, Any]:
    with malformed(f"attacks of {attack} on {_place(axes)}"):
        scores = [VictimScore.from_dict(one) for file in files for one in file.get("victims") or []]
        null = [VictimScore.from_dict(one) for file in files for one in file.get("control") or []]
        threat = dict(files[0].get("threat") or {})
        crashed = [file for file in files if _failed(file)]
        declined = [file for file in files if file.get("error") and not _failed(file)]
        # An attack that gave no answer at all names no victims; those chosen count for it nevertheless.
        refused = sum(_chosen(run, file) for file in declined if not file.get("victims"))
        absent = refused + sum(_chosen(run, file) for file in crashed if not file.get("victims"))
        nobody = not scores and all(file["cell"] in run.truth and not _chosen(run, file) for file in files)
    found, control = summarise(scores, run.threshold), summarise(null, run.threshold)
    reasons = [str(file["error"]) for file in declined]
    reasons += [one.refusal for one in scores if one.refusal is not None]
    unanswered = "failed" if crashed else "refused"
    if nobody and not crashed and not declined:
        unanswered, reasons = (
            "unattacked",
            [_NO_VICTIM if any(_observed(run, file) for file in files) else _NO_UPDATE],
        )
    reading = level(found, control, run.threshold, unanswered=unanswered)
    silent = reading.key in SILENT
    told = [one.refusal or "" for one in scores]
    clients = [one.removeprefix(_DECLINED) for one in told if one.startswith(_DECLINED)]
    granted = bool(threat.get("labels"))
    numbers = _numbers(found, (*_PSNR, *_SHARED))
    control_numbers = _numbers(control, ("psnr_median", "psnr_max", *_SHARED))
    if granted:
        # What the threat model gave away was not recovered.
        numbers |= dict.fromkeys(_LABELS)
        control_numbers |= dict.fromkeys(_LABELS)
    if silent:
        numbers["images"] = control_numbers["images"] = 0  # nothing was tried on them, whoever declined
    return {
        "attack": attack,
        "plugin": str(files[0].get("plugin") or attack),
        "paper": str(files[0].get("paper") or ""),
        "needs": [str(item) for item in files[0].get("needs") or []],
        "server": str(files[0].get("server") or "curious"),
        **axes,
        **numbers,
        "victims": found.victims + absent,
        "refused": found.refused + refused,
        "refusal": "; ".join(merged(reasons)) or None,
        "clients_refused": {"updates": len(clients), "reason": "; ".join(merged(clients))}
        if clients
        else None,
        "models": len(files),
        "failed": len(crashed),
        "error": "; ".join(dict.fromkeys(str(file.get("error") or "no reason given") for file in crashed))
        or None,
        "control": {**control_numbers, "victims": control.victims, "psnr": _values(null)},
        "seeds": sorted({int(file["seed"]) for file in files}),
        "threat": threat,
        "threat_label": label,
        "labels_granted": granted,
        "level": reading.key,
        "symbol": reading.symbol,
        "reading": "clients refused" if silent and clients else reading.word,
        "psnr": _values(scores),
        "certificates": proofs(scores),
    }


def _failed(file: dict[str, Any]) -> bool:
    """Whether the attack crashed or broke its contract; any other error means that it declined.

    Older runs do not record which, but put it into the words of the error.
    """
    if "failed" in file:
        return file["failed"] is True
    return str(file.get("error") or "").startswith("the attack failed")


def _chosen(run: Run, file: dict[str, Any]) -> int:
    """How many victims were drawn in the trained model that `file` is about."""
    if "chosen" in file:
        return int(file["chosen"])
    return len(run.truth.get(file["cell"], {}).get("victims") or [])


def _observed(run: Run, file: dict[str, Any]) -> bool:
    """Whether any update was observed in the trained model that `file` is about; older runs do not say."""
    return run.truth.get(file["cell"], {}).get("observed") != 0


def utility_rows(run: Run, baseline: set[str]) -> list[dict[str, Any]]:
    """One row per pool: test accuracy, its uncertainty, its cost and its spread over clients."""
    rows: list[dict[str, Any]] = []
    for axes, cells in run.pools:
        known = [run.metrics[cell["name"]] for cell in cells if cell["name"] in run.metrics]
        # An app that measures no accuracy has none.
        measured = [one for one in known if one.get("accuracy", 0.0) is not None]
        if not measured:
            continue
        with malformed("metrics.json"):
            accuracies = [float(one["accuracy"]) for one in measured]
            losses = [float(one["loss"]) for one in measured if one.get("loss") is not None]
            clients = [
                float(one["accuracy"])  # null: a client none of whose labels is in the test set
                for cell in measured
                for one in cell.get("per_client") or []
                if one["accuracy"] is not None and "adversary" not in one
            ]
            personal = any(one.get("personal") is True for one in measured)
            # Personal models are tested in each client's own mix: no proportion of the test records.
            several = any(one.get("tasks") for one in measured)  # whose accuracy is a mean over test sets
            test = None if personal or several else (run.manifest.get("dataset") or {}).get("test")
            bounds, kind = _accuracy_interval(accuracies, test)
            rows.append(
                {
                    **axes,
                    "personal": personal,
                    "accuracy": float(np.mean(accuracies)),
                    "accuracy_ci95": bounds,
                    "accuracy_ci95_kind": kind,
                    "loss": float(np.mean(losses)) if losses else None,
                    "per_client": {
                        "worst": min(clients) if clients else None,
                        "p10": float(np.quantile(clients, 0.1)) if clients else None,
                        "median": float(np.median(clients)) if clients else None,
                        "values": sorted(clients),
                    },
                    **course(measured),
                    "seeds": sorted({cell["seed"] for cell in cells if cell["name"] in run.metrics}),
                }
            )
    plain = {
        (row["strategy"], row["client_mode"]): row["accuracy"] for row in rows if row["defense"] in baseline
    }
    for row in rows:
        before = plain.get((row["strategy"], row["client_mode"]))
        row["accuracy_cost"] = None if before is None else before - row["accuracy"]
    return rows


def guarantee_rows(run: Run) -> list[dict[str, Any]]:
    """One row per pool; epsilon is null unless every cell has one, every assumption holds and no check of
    what ran contradicts it."""
    rows = []
    for axes, cells in run.pools:
        files = [run.privacy[cell["name"]] for cell in cells if cell["name"] in run.privacy]
        with malformed(f"privacy of {_place(axes)}"):
            found = _guarantee(files, len(cells))
        spoken = [alarm for cell in cells for alarm in alarms_of(run.checks.get(cell["name"], {}))]
        rows.append({**axes, **(_withdrawn(found, spoken) if spoken else found)})
    return rows


def _withdrawn(row: dict[str, Any], spoken: list[str]) -> dict[str, Any]:
    """A guarantee whose mechanism is not the one that ran is none; `claimed` keeps what was accounted for."""
    if row["epsilon"] is None:
        return row
    reason = "what ran is not what was accounted for: " + "; ".join(dict.fromkeys(spoken))
    spread = {**row["per_client"], "lowest": None, "median": None}
    return row | {"epsilon": None, "delta": None, "per_client": spread, "reason": reason}


def _place(axes: dict[str, str]) -> str:
    named = [axes["strategy"], axes["defense"]] if axes["strategy"] else [axes["defense"]]
    return f"{', '.join(named)} ({axes['client_mode']})"


def _guarantee(files: list[dict[str, Any]], cells: int) -> dict[str, Any]:
    first = files[0] if files else {}
    assumptions: dict[str, bool] = {}
    for file in files:
        for one in file.get("assumptions") or []:
            text = str(one["text"])
            assumptions[text] = assumptions.get(text, True) and one["holds"] is True
    broken = [text for text, holds in assumptions.items() if not holds]
    values = [file.get("epsilon") for file in files]
    per_client = [
        float(value)
        for file in files
        for value in (file.get("per_client") or {}).values()
        if value is not None
    ]
    reasons = list(dict.fromkeys(str(file["reason"]) for file in files if file.get("reason")))
    positive = [float(value) for value in values if value is not None and float(value) > 0]
    epsilon = max([*positive, *per_client]) if positive and len(positive) == cells and not broken else None
    if epsilon is None and not reasons:
        if broken:
            reasons = [f"an assumption of the proof does not hold: {text}" for text in broken]
        elif any(value is not None for value in values):
            reasons = ["an ε was not given for every trained model, or is not a positive number"]
        else:
            reasons = ["no mechanism with a proof ran"]
    return {
        "epsilon": epsilon,
        "claimed": epsilon,
        "delta": first.get("delta") if epsilon is not None else None,
        "unit": first.get("unit"),
        "adjacency": first.get("adjacency"),
        "accountant": first.get("accountant"),
        "mechanism": first.get("mechanism"),
        "noise": first.get("noise"),
        "assumptions": [{"text": text, "holds": holds} for text, holds in assumptions.items()],
        "per_client": {
            "clients": len(per_client),
            "lowest": min(per_client) if per_client and epsilon is not None else None,
            "median": float(np.median(per_client)) if per_client and epsilon is not None else None,
        },
        "reason": "; ".join(reasons) if epsilon is None else None,
    }


def _accuracy_interval(accuracies: list[float], test: Any) -> tuple[list[float] | None, str | None]:
    """Over seeds if there are several (Student's t), else over the test records (exact binomial)."""
    if len(accuracies) > 1:
        mean, count = float(np.mean(accuracies)), len(accuracies)
        half = float(t.ppf(0.975, count - 1)) * float(np.std(accuracies, ddof=1)) / math.sqrt(count)
        return [max(0.0, mean - half), min(1.0, mean + half)], f"{count} seeds"
    if isinstance(test, int) and not isinstance(test, bool) and test > 0:
        right = min(max(round(accuracies[0] * test), 0), test)
        return list(binomial_interval(right, test)), f"{test} test records"
    return None, None


def _numbers(summary: Summary, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(summary, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _values(scores: list[VictimScore]) -> list[float]:
    return [value for one in scores for value in one.psnr if value is not None]
