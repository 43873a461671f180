"""Which mechanisms act on the updates, as the updates themselves say.

Made of acting.json (`fedlab.audit.acting.as_json`); runs without it have no such section.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.rundir import Run, malformed, parse_json

NAME = "acting.json"
FINITE = "only finite numbers"
"""Not told as a rule, and no mechanism that clients would miss."""
MEANING = {
    "norm bound": "updates are shortened to a bound, so that no client has too large a part",
    "noise": "random numbers are added to an update before it is sent",
    "sparsity": "most numbers of an update are left out",
    "signs only": "of each number only its sign is sent",
    "quantisation": "numbers are rounded to a few values",
    "sums only": "the server sees sums over clients, and no single update",
    FINITE: "updates with numbers that are none are stopped before they are averaged",
}
"""What a mechanism does, for readers who build none."""
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
        "meaning": MEANING.get(str(one["name"]), ""),
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
