"""What it is worth to know the defense: the same attack on the same updates, informed and unaware.

A defense that holds only while nobody knows of it is none (Kerckhoffs). The informed attacker is the run's
own; the unaware one differs in nothing but that it takes the updates for undefended ones.
"""

from __future__ import annotations

from typing import Any

from fedlab.audit.difference import difference
from fedlab.report.knowledge import CEILING_DB, UNAWARE, victims_of
from fedlab.report.reading import AXES, SILENT, assumed, decibel, key
from fedlab.report.rundir import Run
from fedlab.report.verdict import strongest_of

Row = dict[str, Any]

SMALL = 0.5
"""Difference in dB that changes nothing for anybody, whatever its interval."""
_SCORES = ("psnr_median", "psnr_max", "recovered", "images", "level", "symbol", "reading")


def adaptive(run: Run, attacks: list[Row]) -> list[Row]:
    """One row per attack and pool that was tried both ways; empty in a run that tried none."""
    rows = []
    for unaware in attacks:
        if unaware["threat_label"] != UNAWARE:
            continue
        pool = [one for one in assumed(attacks) if key(one) == key(unaware)]
        informed = next((one for one in pool if one["attack"] == unaware["attack"]), None)
        if informed is None:
            continue
        gain = difference(victims_of(run, informed), victims_of(run, unaware), ceiling=CEILING_DB)
        others = strongest_of([one for one in pool if one["attack"] != unaware["attack"]])
        row = {
            **{axis: unaware[axis] for axis in AXES},
            "attack": unaware["attack"],
            "informed": _scores(informed),
            "unaware": _scores(unaware),
            "control": informed["control"]["psnr_median"],
            "difference": gain.mean if gain else None,
            "difference_ci95": list(gain.ci95) if gain and gain.ci95 else None,
            "difference_victims": gain.victims if gain else None,
            "others": None
            if others is None
            else {"attack": others["attack"], "psnr_median": others["psnr_median"]},
        }
        rows.append({**row, "text": _words(row)})
    return rows


def _scores(row: Row) -> Row:
    return {name: row[name] for name in _SCORES}


def _words(row: Row) -> str:
    """What the pair shows, in a sentence."""
    informed, unaware = row["informed"], row["unaware"]
    if informed["level"] in SILENT or unaware["level"] in SILENT:
        return f"nothing to compare: informed {informed['reading']}, unaware {unaware['reading']}"
    if row["difference"] is None:
        return "no image to compare"
    if row["difference_ci95"] is None:
        return "one victim: no interval, so nothing can be said"
    low, high = row["difference_ci95"]
    if abs(row["difference"]) < SMALL:
        return "no difference worth naming" if low * high > 0 else "no difference could be shown"
    if low > 0:
        return f"knowing the defense gives the attacker {decibel(row['difference'])} more"
    if high < 0:
        return f"using what is known of the defense costs the attacker {decibel(-row['difference'])}"
    return "no difference could be shown"
