"""The proof in detail: what `guarantees` says in a row, with its curve, its course and its second opinion.

Files of older versions lack some of it, and then so does the report: nothing is computed here.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import key
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]

_FACTS = ("unit", "adjacency", "mechanism", "accountant", "noise", "reason")


def proofs_in_full(run: Run, guarantees: list[Row]) -> list[Row]:
    """One row per pool with a mechanism, of its first trained model with the largest ε."""
    rows = []
    for row in guarantees:
        cells = [cell["name"] for cell in run.cells if key(cell) == key(row)]
        files = [run.privacy[name] for name in cells if name in run.privacy]
        if not files or not row["mechanism"]:
            continue
        with malformed(f"privacy of {row['defense']} ({row['client_mode']})"):
            worst = max(files, key=lambda one: float(one.get("epsilon") or 0.0))
            rows.append({**row, "models": len(files), **_detail(worst, row["epsilon"] is not None)})
    return rows


def _detail(file: Row, holds: bool) -> Row:
    """Curves are told only where there is an ε: what nobody proved must not be drawn either."""
    rounds = sorted(int(count) for count in (file.get("participations") or {}).values())
    return {
        "participations": {
            "lowest": rounds[0] if rounds else None,
            "median": rounds[len(rounds) // 2] if rounds else None,
            "highest": rounds[-1] if rounds else None,
        },
        "place": str(file.get("place") or ""),
        "rounds": int(file.get("rounds") or 0),
        "attempts": int(file.get("attempts") or 1),
        "most_exposed": file.get("most_exposed"),
        "history": [
            {"noise_multiplier": float(sigma), "sample_rate": float(rate), "steps": int(steps)}
            for sigma, rate, steps in file.get("history") or []
        ],
        "cautions": [str(one) for one in file.get("cautions") or []],
        "cross_check": [_opinion(one) for one in file.get("cross_check") or []] if holds else [],
        "curve": _pairs(file.get("curve"), float) if holds else [],
        "course": _pairs(file.get("course"), int) if holds else [],
        "beside": [_beside(one) for one in file.get("beside") or []],
    }


def _opinion(one: Row) -> Row:
    return {"accountant": str(one["accountant"]), "epsilon": one.get("epsilon")}


def _beside(one: Row) -> Row:
    """What else holds of the same training, about another unit."""
    said = [{"text": str(a["text"]), "holds": a["holds"] is True} for a in one.get("assumptions") or []]
    kept = all(a["holds"] for a in said)
    return {
        **{name: one.get(name) for name in _FACTS},
        "epsilon": one.get("epsilon") if kept else None,
        "delta": one.get("delta"),
        "assumptions": said,
    }


def _pairs(found: Any, first: type) -> list[list[float]]:
    """[[x, ε], ...] in order of x; what is infinite is left out."""
    return sorted([first(x), float(y)] for x, y in found or [] if y is not None)
