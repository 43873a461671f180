"""Defenses down, attacks across, one table per strategy and client mode: what the page lets people sort."""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import assumed, key, panel

Row = dict[str, Any]

_CELL = ("level", "symbol", "reading", "psnr_median", "psnr_max", "recovered", "images", "label_accuracy")


def matrix(attacks: list[Row], utility: list[Row], guarantees: list[Row]) -> list[Row]:
    """`attacks` names the columns; each of `rows` is a defense with its cells, null if not scored."""
    scored = assumed(attacks)
    found = {(row["attack"], *key(row)): row for row in scored}
    names = list(dict.fromkeys(row["attack"] for row in scored))
    tables = []
    for strategy, mode in dict.fromkeys(panel(row) for row in guarantees):
        here = [row for row in guarantees if panel(row) == (strategy, mode)]
        rows = []
        for one in here:
            measured = next((row for row in utility if key(row) == key(one)), None)
            rows.append(
                {
                    "defense": one["defense"],
                    "accuracy": measured["accuracy"] if measured else None,
                    "epsilon": one["epsilon"],
                    "cells": [_cell(found.get((name, *key(one)))) for name in names],
                }
            )
        tables.append({"strategy": strategy, "client_mode": mode, "attacks": names, "rows": rows})
    return tables if names else []


def _cell(row: Row | None) -> Row | None:
    if row is None:
        return None
    proved = [one["method"] for one in row["certificates"] if one["unique"]]
    return {
        **{name: row[name] for name in _CELL},
        "control": row["control"]["psnr_median"],
        "certified": proved,
    }
