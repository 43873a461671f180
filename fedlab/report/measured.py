"""The figure of a row that a gate is about, or why the row has none."""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import clause

Row = dict[str, Any]


def measure(subject: str, metric: str, row: Row) -> tuple[float | None, str]:
    """(value, reason): a metric of `fedlab.gate.METRICS` in a row of the report.

    The value is None where the row has none; a reason says why, or what the value leaves out.
    """
    if subject == "attack":
        return _attack(metric, row)
    if subject == "membership":
        return _membership(metric, row)
    return _utility(metric, row) if subject == "utility" else _privacy(metric, row)


def _attack(metric: str, row: Row) -> tuple[float | None, str]:
    missing = _failures(row)
    told = row["clients_refused"]
    if told is not None and told["updates"] == row["victims"] and not missing:
        # They were asked and gave nothing: a result, unlike an attack that could not be tried.
        return 0.0, ""
    value = _score(metric, row)
    if value is not None or missing:
        return value, missing
    if row["level"] in ("refused", "unattacked"):
        return None, clause(row["refusal"] or "the attack gave no answer")
    if metric == "label_accuracy":
        granted = "the threat grants the labels" if row["labels_granted"] else "the attack names no labels"
        return None, granted
    if row["level"] == "labels":
        return None, "the attack answers with labels, not with images"
    return None, "too few victims" if metric.endswith("upper") else "not measured"


def _score(metric: str, row: Row) -> float | None:
    if metric == "psnr_upper":
        return _upper(row["psnr_ci95"])
    if metric == "fraction_upper":
        return _upper(row["fraction_ci95"])
    if metric == "psnr_above_control":
        median, control = row["psnr_median"], row["control"]["psnr_median"]
        return None if median is None or control is None else float(median - control)
    if metric == "recovered" and row["fraction_recovered"] is None:
        return None
    return _number(row[metric])


def _membership(metric: str, row: Row) -> tuple[float | None, str]:
    missing = _failures(row)
    if metric == "auc":
        return _number(row["auc"]), missing or ("" if row["auc"] is not None else _silence(row))
    rate = float(metric.rpartition("_")[2])
    power = next((one for one in row["powers"] if one["at"] == rate), None)
    value = None if power is None else _number(power["rate"])
    if value is not None or missing:
        return value, missing
    return None, _silence(row) if power is None or row[
        "level"
    ] == "refused" else f"the figure {power['reason']}"


def _silence(row: Row) -> str:
    return clause(row["refusal"] or "too few records")


def _failures(row: Row) -> str:
    """That an attack failed, wholly or in some of the trained models."""
    if not row["failed"]:
        return ""
    models = row.get("models")
    where = f" in {row['failed']} of {models} trained models" if models and models > row["failed"] else ""
    return f"the attack failed{where}: {clause(row['error'] or 'no reason given')}"


def _utility(metric: str, row: Row) -> tuple[float | None, str]:
    value = row["per_client"]["worst"] if metric == "worst_client" else row[metric]
    if value is not None:
        return _number(value), ""
    if metric == "accuracy_cost":
        return None, "no undefended training to compare with"
    return None, "not measured"


def _privacy(metric: str, row: Row) -> tuple[float | None, str]:
    if metric in ("epsilon", "delta"):
        value = _number(row[metric])
        return value, "" if value is not None else f"no formal guarantee: {row['reason']}"
    checked = row["checked"]
    if metric == "alarms":
        return (None, "nothing was checked") if checked is None else (float(len(checked["alarms"])), "")
    bounds = [one["epsilon_hat"] for one in (checked or {}).get("one_run", [])]
    found = [float(one) for one in bounds if one is not None]
    return (max(found), "") if found else (None, "no lower bound was measured")


def _upper(bounds: list[float] | None) -> float | None:
    return None if bounds is None else float(bounds[1])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
