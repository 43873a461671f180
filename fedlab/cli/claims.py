"""What a recording of a deployment prints: claims and what is proved, for there are no scores."""

from __future__ import annotations

from typing import Any

from fedlab.cli.output import grid

LABELS = 40
"""Characters of a list of labels that are shown."""


def claims(data: dict[str, Any]) -> Any | None:
    """One row per attack and update; None of a run that is no recording."""
    found = data.get("deployment")
    if found is None:
        return None
    table = grid("attack", "update", "images", "labels", "residual", "null", "replayed", "certificate")
    for column in ("images", "residual", "null", "replayed"):
        next(one for one in table.columns if one.header == column).justify = "right"
    for one in found["attacks"]:
        name = one["attack"]
        for row in one["victims"]:
            labels = ", ".join(map(str, row["labels"] or [])) or "-"
            table.add_row(
                name,
                f"client {row['client']}, round {row['round']}",
                str(row["images"]),
                labels if len(labels) <= LABELS else f"{labels[:LABELS]}...",
                _number(row["residual"]),
                _number(row["null_residual"]),
                _number(row["replayed"]),
                _proved(row),
            )
            name = ""
        if not one["victims"]:
            table.add_row(name, (one["error"] or "no answer").partition(";")[0], *[""] * 6)
    return table


def _proved(row: dict[str, Any]) -> str:
    if row["refusal"]:
        return "no answer"
    return "unique" if row["holds"] else "unique, images do not fit" if row["unique"] else "none"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
