"""How a Flower app was read: each fact with its source and how surely, and what stood in the way of attacks.

Made of app.json, which `fedlab audit-app` writes; runs of scenarios have none.
"""

from __future__ import annotations

from typing import Any

from fedlab.report.reading import listed, plural
from fedlab.report.rundir import Run, malformed, parse_json

NAME = "app.json"
SURETY = {
    "checked": "something else agrees with it",
    "recorded": "seen in clients while they trained",
    "stated": "the app's author says so",
    "assumed": "may be wrong",
}
"""How sure a fact is, the surest first."""
MEANING = {
    "network": "what clients train",
    "names": "whether each part of a message is known for a part of the network",
    "loss": "what training makes small",
    "input": "the size of a record, as the network takes it",
    "pixels": "which numbers stand for black and for white",
    "classes": "answers that the network chooses among",
    "client mode": "how clients run the network while they train",
    "records used": "records behind one attacked update",
    "batch size": "records of one step",
    "local steps": "steps of a client in one round",
    "local epochs": "times that a client goes through its records in one round",
    "optimizer": "how a step is made",
    "update": "whether what was recorded gives the update that was sent",
    "evaluation": "where the accuracy comes from",
    "update tells": "what an attacker can read off the way in which steps are made",
    "answers": "which parts of an answer are parts of what was sent",
    "answers hold": "what the numbers of an answer are",
    "sent to clients": "what every client gets",
    "answered": "what a client sends back",
    "records": "how much clients say they have",
    "stays with the clients": "parts of the network that are never sent",
    "clients also tell": "figures that clients send beside their update",
}
"""Of facts, for readers who do not train networks."""
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
            {key: str(one[key]) for key in ("name", "value", "source", "sure")}
            | {"meaning": MEANING.get(str(one["name"]), "")}
            for one in found["facts"]
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
            "sureness": _sureness([one["sure"] for one in facts]),
            "obstacles": [str(one) for one in found["obstacles"]],
            "doubts": [str(one) for one in found.get("doubts", [])],
            "output": [str(one) for one in found["output"]][-LINES:],
            "surety": {
                key: words for key, words in SURETY.items() if any(one["sure"] == key for one in facts)
            },
        }


def _sureness(sure: list[str]) -> str:
    """How far the facts are to be trusted, in a sentence."""
    counts = [f"{sure.count(key)} {key}" for key in SURETY if key in sure]
    if not counts:
        return ""
    return f"{plural(len(sure), 'fact')}: {listed(counts)}{'' if 'assumed' in sure else '; none assumed'}."
