"""How well an app learns, by its own evaluation: which of its metrics are an accuracy and a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedlab.apps.contract import Ran

ACCURACY = ("accuracy", "acc")
LOSS = ("loss",)


def measured(ran: Ran) -> dict[str, Any]:
    """What metrics.json holds of a cell; accuracy and loss are None where the app measures none."""
    names = list(dict.fromkeys(name for row in ran.metrics.values() for name in row))
    accuracy, loss = _called(names, ACCURACY), _called(names, LOSS)
    rounds = [
        {"round": number, "accuracy": _share(row.get(accuracy)), "loss": _number(row.get(loss))}
        for number, row in sorted(ran.metrics.items())
    ]
    last = rounds[-1] if rounds else {}
    return {
        "accuracy": last.get("accuracy"),
        "loss": last.get("loss"),
        "rounds": [row for row in rounds if row["round"] != 0 and row["accuracy"] is not None],
        "asked": ran.replies,
        "failures": ran.failed,
    }


def _called(names: Iterable[str], words: Iterable[str]) -> str:
    """The metric that is called so, or after it; "" if there is none. Training's own come last."""
    known = sorted(names, key=lambda name: ("train" in name.lower(), len(name)))
    found = (name for word in words for name in known if word in name.lower())
    return next(found, "")


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _share(value: float | None) -> float | None:
    number = _number(value)
    return number if number is not None and 0.0 <= number <= 1.0 else None


def rows(metrics: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """All of the app's metrics, for its own section of the report."""
    return {str(number): {name: float(one) for name, one in row.items()} for number, row in metrics.items()}


def strict(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for JSON, which has no infinities: configurations in TOML, and Flower's, have."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
