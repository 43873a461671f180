"""What a finished audit of an app prints of the tries: side by side, then what was found of them."""

from __future__ import annotations

from typing import Any

from fedlab.cli.output import grid


def tried(data: dict[str, Any]) -> Any | None:
    """One row per try, the app as it is first, and the headline; None where nothing was tried."""
    found = data.get("tried")
    if not found:
        return None
    from rich.console import Group
    from rich.text import Text

    table = grid("tried", "finding", "recovered", "PSNR dB", "null dB", "labels", "accuracy", "points")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in found["rows"]:
        table.add_row(*map(Text, _cells(row)))
    told = [Text(found["headline"])]
    told += [Text(_first(row["label"], row["why"])) for row in found["rows"] if row["finding"] == "failed"]
    if found["changes"]:
        names = ", ".join(one["label"] for one in found["changes"])
        told.append(Text(f"The lines to change in the app ({names}) stand in the report."))
    return Group(table, Text(), *told)


def _first(label: str, why: str) -> str:
    """A failed try by the first line of its reason."""
    return f"{label} could not be tried: {why.partition(chr(10))[0]}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    leak, labels, cost = row["leak"], row["labels"], row["accuracy_cost"]
    return (
        row["label"],
        row["words"],
        f"{leak['recovered']} of {leak['images']}" if leak else "–",
        f"{leak['psnr_median']:.1f}" if leak else "–",
        f"{leak['control']:.1f}" if leak and leak["control"] is not None else "–",
        f"{labels['accuracy']:.0%}" if labels else "–",
        "–" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
        "–" if cost is None or row["finding"] == "base" else f"{0 - 100 * cost:+.1f}",
    )
