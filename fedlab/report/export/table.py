"""Tables of a report as CSV (RFC 4180): one line per row, one column per figure.

Cells are what was measured, or a name from the run directory, which anybody may have written: text that a
spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV injection",
https://owasp.org/www-community/attacks/CSV_Injection). Numbers keep their sign: they cannot be formulas.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any

from fedlab.errors import UnknownName

Row = dict[str, Any]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LEFT_OUT = ("psnr", "roc", "certificates", "values")
"""Lists and curves that would be tables of their own; report.json has them."""

_FIRST = ("attack", "threat_label", "strategy", "defense", "client_mode")
"""Columns that say what a line is about."""


def _rows(name: str) -> Callable[[Row], list[Row]]:
    return lambda data: list(data.get(name) or [])


def _images(data: Row) -> list[Row]:
    """One row per reconstructed image."""
    return [
        {**{name: row.get(name, "") for name in _FIRST}, "image": number, "psnr": value}
        for row in data["attacks"]
        for number, value in enumerate(row["psnr"], start=1)
    ]


def _knowledge(data: Row) -> list[Row]:
    about = ("attack", "strategy", "defense", "client_mode")
    return [
        {**{name: group[name] for name in about}, **row}
        for group in data["knowledge"]
        for row in group["rows"]
    ]


def _limits(data: Row) -> list[Row]:
    return [{"limit": text} for text in data["limits"]]


TABLES: dict[str, Callable[[Row], list[Row]]] = {
    "attacks": _rows("attacks"),
    "images": _images,
    "membership": _rows("membership"),
    "knowledge": _knowledge,
    "adaptive": _rows("adaptive"),
    "utility": _rows("utility"),
    "guarantees": _rows("guarantees"),
    "gates": _rows("gates"),
    "findings": lambda data: list(data["verdict"]["findings"]),
    "tried": lambda data: list((data.get("tried") or {}).get("rows") or []),
    "recommendations": _rows("recommendations"),
    "limits": _limits,
}
"""Name -> rows of that table."""


def known_table(name: str) -> str:
    """The name itself.

    Raises:
        UnknownName: no table is called so.
    """
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    return name


def csv_text(data: Row, table: str) -> str:
    """A table of report.json, with a header; an empty table has nothing but its name for one."""
    rows = [_flat(row) for row in TABLES[table](data)]
    nested = {name.partition(".")[0] for row in rows for name in row if "." in name}
    return written([{k: v for k, v in row.items() if k not in nested} for row in rows], empty=table)


def written(rows: Iterable[Row], empty: str = "") -> str:
    """Flat rows as CSV: columns in the order in which they first come, absent values empty."""
    rows = list(rows)
    present = dict.fromkeys(name for row in rows for name in row)
    columns = [
        *(name for name in _FIRST if name in present),
        *(name for name in present if name not in _FIRST),
    ]
    columns = columns or [empty]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\r\n")
    lines.writerow(map(_cell, columns))
    lines.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str | int | float:
    """One value as a spreadsheet may see it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _flat(row: Row, prefix: str = "") -> Row:
    """Without nesting: `control.psnr_median`, `psnr_ci95.low`, lists of words joined by semicolons."""
    found: Row = {}
    for name, value in row.items():
        column = f"{prefix}{name}"
        if name in _LEFT_OUT and isinstance(value, dict | list):
            continue
        if isinstance(value, dict):
            found |= _flat(value, f"{column}.")
        elif name == "powers":
            found |= {f"{prefix}tpr_at_fpr_{one['at']:g}": one["rate"] for one in value}
        elif name.endswith("ci95"):
            low, high = value or (None, None)
            found |= {f"{column}.low": low, f"{column}.high": high}
        elif isinstance(value, list):
            if not any(isinstance(one, dict | list) for one in value):
                found[column] = "; ".join(map(str, value))
        else:
            found[column] = value
    return found
