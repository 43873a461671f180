"""Leakage against utility over all defenses: who gives the least away at which accuracy."""

from __future__ import annotations

from typing import Any

from fedlab.report.knowledge import CEILING_DB
from fedlab.report.reading import AXES, key, panel, reached
from fedlab.report.verdict import strongest_of

Row = dict[str, Any]

_LEAK = ("attack", "psnr_median", "psnr_max", "recovered", "images", "fraction_recovered", "fraction_ci95")


def frontier(
    attacks: list[Row], utility: list[Row], guarantees: list[Row], undefended: set[str]
) -> list[Row]:
    """One row per pool that was measured both ways; `efficient` where no other of its mode beats it in both.

    Leakage is the median PSNR of the strongest attack of the run's own attacker, who need not use all that
    it knows.
    """
    rows = []
    for measured in utility:
        strongest = strongest_of([one for one in reached(attacks) if key(one) == key(measured)])
        if strongest is None:
            continue
        proved = next((one for one in guarantees if key(one) == key(measured)), {})
        rows.append(
            {
                **{axis: measured[axis] for axis in AXES},
                "accuracy": measured["accuracy"],
                "accuracy_ci95": measured["accuracy_ci95"],
                "accuracy_cost": measured["accuracy_cost"],
                **{name: strongest[name] for name in _LEAK},
                "control": strongest["control"]["psnr_median"],
                "level": strongest["level"],
                "epsilon": proved.get("epsilon"),
                "undefended": measured["defense"] in undefended,
            }
        )
    for row in rows:
        rivals = [one for one in rows if panel(one) == panel(row)]
        row["efficient"] = not any(_beats(one, row) for one in rivals)
    return rows


def _beats(one: Row, other: Row) -> bool:
    """Whether one is no worse in both, and better in one."""
    mine, theirs = _place(one), _place(other)
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _place(row: Row) -> tuple[float, float]:
    """(accuracy, minus leakage): more of each is better."""
    return round(row["accuracy"], 6), -min(round(row["psnr_median"], 2), CEILING_DB)
