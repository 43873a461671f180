"""Which mechanisms act on the updates, as the updates themselves say.

Made of acting.json (`fedlab.audit.acting.as_json`); runs without it have no such section.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.rundir import Run, malformed, parse_json

NAME = "acting.json"
FINITE = "only finite numbers"
"""Not told as a rule, and no mechanism that clients would miss."""
VERDICTS = {True: "acts", False: "no trace", None: "cannot be told"}


def acting(run: Run) -> dict[str, Any] | None:
    """What report.json says of the mechanisms; None where nobody looked for them."""
    path = run.file(NAME)
    if not path.is_file():
        return None
    found = parse_json(path.read_bytes(), path)
    with malformed(NAME):
        rows = [_row(one) for one in found["signs"]]
        return {
            "updates": int(found["updates"]),
            "clients": int(found["clients"]),
            "rounds": int(found["rounds"]),
            "signs": rows,
            "headline": _headline(rows),
        }


def _row(one: dict[str, Any]) -> dict[str, Any]:
    acts, figure = one["acts"], one["figure"]
    return {
        "name": str(one["name"]),
        "acts": acts,
        "verdict": VERDICTS[acts],
        "figure": None if figure is None else float(figure),
        "words": str(one["words"]),
    }


def _headline(rows: list[dict[str, Any]]) -> str:
    """Everything that acts, in a sentence."""
    seen = [row["name"] for row in rows if row["acts"]]
    if seen:
        return f"What the updates show: {', '.join(seen)}."
    if any(row["acts"] is None and row["name"] != FINITE for row in rows):
        return "No privacy mechanism is sure to act on the updates; what cannot be told stands below."
    return "No privacy mechanism left a trace on the updates."
