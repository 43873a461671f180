"""How a Flower app was read: each fact with its source and how surely, and what stood in the way of attacks.

Made of app.json, which `fedlab audit-app` writes; runs of scenarios have none.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.rundir import Run, malformed, parse_json

NAME = "app.json"
SURETY = {
    "checked": "something else agrees with it",
    "recorded": "seen in clients while they trained",
    "stated": "the app's author says so",
    "assumed": "may be wrong",
}
"""How sure a fact is, the surest first."""
LINES = 200
"""Of the app's output at most."""


def app(run: Run) -> dict[str, Any] | None:
    """What report.json says of the app; None where a scenario was run."""
    path = run.file(NAME)
    if not path.is_file():
        return None
    found = parse_json(path.read_bytes(), path)
    with malformed(NAME):
        facts = [
            {key: str(one[key]) for key in ("name", "value", "source", "sure")} for one in found["facts"]
        ]
        return {
            "name": str(found["name"]),
            "supernodes": int(found["supernodes"]),
            "rounds": int(found["rounds"]),
            "observed": [int(one) for one in found["observed"]],
            "configuration": {str(key): value for key, value in found["configuration"].items()},
            "replies": int(found["replies"]),
            "failed": int(found["failed"]),
            "failure": str(found["failure"]),
            "metrics": found["metrics"],
            "facts": facts,
            "obstacles": [str(one) for one in found["obstacles"]],
            "doubts": [str(one) for one in found.get("doubts", [])],
            "output": [str(one) for one in found["output"]][-LINES:],
            "surety": {
                key: words for key, words in SURETY.items() if any(one["sure"] == key for one in facts)
            },
        }
