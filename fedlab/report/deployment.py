"""A recording of a deployment: what was claimed about whose records, how well it explains the update, what is
proved. Nobody knows the records, so that nothing of this is a score.

Made of deployment.json (`fedlab tap`), facts.json and the answers of attacks (`fedlab attack RUN --app`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlab.report.app import SURETY
from fedlab.report.gallery import _load, data_uri
from fedlab.report.reading import listed, plural
from fedlab.report.rundir import Run, malformed, parse_json

NAME, FACTS, KIND = "deployment.json", "facts.json", "claims"
"""The recording, what is known of the app, and the kind of an answer without a score."""
UNIQUE = "unique"
EXPLAINED = 0.05
"""Replays that differ by more than this part of the update do not explain it, whatever rounding does."""
NO_TRUTH = (
    "Recorded on a deployment: nobody here knows the clients' records, so that nothing below is a score. A"
    " residual says how well an answer explains an update, a certificate that no other answer does, and"
    " neither says what a picture shows."
)
NO_SCORE = (
    "this run was recorded on a deployment, whose clients' records nobody knows: there are residuals and"
    " certificates, and no score to hold a gate against. Gates work on simulated runs: fedlab audit-app"
)
UNSCORED = ("attack", "membership", "utility")
"""Subjects of gates whose figures need the truth, or a test set."""
INPUT = (
    "A picture can identify a person however little of the update it explains. This report is an input to a"
    " data protection impact assessment, not a substitute for one."
)
MOST_IMAGES = 8

Row = dict[str, Any]


def recorded(run: Run) -> bool:
    """Whether the run is a recording of a deployment."""
    return run.file(NAME).is_file()


def deployment(run: Run) -> Row | None:
    """What report.json says of a recording; None of any other run."""
    if not recorded(run):
        return None
    about, facts = _read(run, NAME), _read(run, FACTS)
    with malformed(NAME):
        known = [
            {key: str(one[key]) for key in ("name", "value", "source", "sure")}
            for one in facts.get("facts", [])
        ]
        attacks = [_attack(one) for one in run.claims]
        kept = [(int(one["round"]), int(one["client"])) for one in about.get("kept", [])]
        left = about.get("left_out") or {}
        return {
            "headline": _headline(attacks, len(kept)),
            "superlink": str((run.manifest.get("deployment") or {}).get("superlink", "")),
            "run_id": str(about.get("run_id", "")),
            "app": str(about.get("app", "")),
            "version": str(about.get("version", "")),
            "configuration": dict(about.get("configuration") or {}),
            "observed": [int(one) for one in about.get("observe", [])],
            "rounds": int(about.get("rounds", 0)),
            "clients": int(about.get("clients", 0)),
            "replies": int(about.get("replies", 0)),
            "failed": int(about.get("failed", 0)),
            "failure": str(about.get("failure", "")),
            "updates": len(kept),
            "left_out": {str(key): int(value) for key, value in left.items()},
            "fault": str(about.get("fault", "")),
            "facts": known,
            "surety": {key: words for key, words in SURETY.items() if any(o["sure"] == key for o in known)},
            "obstacles": [str(one) for one in facts.get("obstacles", [])],
            "doubts": [str(one) for one in facts.get("doubts", [])],
            "attacks": attacks,
        }


def with_deployment(data: Row, run: Run) -> Row:
    """The report of a recording says first that there is no truth behind it; of other runs, nothing new."""
    found = deployment(run)
    if found is None:
        return data | {"deployment": None}
    verdict = data["verdict"] | {"headline": found["headline"], "findings": []}
    return data | {"deployment": found, "verdict": verdict, "limits": _limits(run, found)}


def _limits(run: Run, found: Row) -> list[str]:
    """In place of sentences about scores, of which there are none."""
    status = str(run.manifest.get("status", "unknown"))
    cut = f"This run is marked “{status}”: what follows is what was recorded until then."
    names = [one["attack"] for one in found["attacks"]]
    tried = (
        f"Attacks tried: {', '.join(names)}. One that proved nothing shows that it did not, and not that no"
        " attack could."
    )
    untried = "No attack was tried: this recording says nothing yet about what leaks."
    rounds = listed(list(map(str, found["observed"])) or ["none"])
    only = (
        f"Only updates of the observed rounds ({rounds}) were recorded; leakage changes as training goes on."
    )
    doubts = [f"{text}." for text in found["doubts"]]
    return [
        *([] if status == "finished" else [cut]),
        NO_TRUTH,
        tried if names else untried,
        *doubts,
        only,
        INPUT,
    ]


@dataclass(frozen=True)
class Tiles:
    """Reconstructions of one update by one attack, and of its control, as data URIs."""

    attack: str
    round: int
    client: int
    answers: tuple[str, ...]
    controls: tuple[str, ...]


def tiles(run: Run) -> list[Tiles]:
    """Whatever was kept of reconstructions; nothing unless the run was told to.

    Raises:
        DataError: a file of images is damaged.
    """
    found = []
    for one in run.claims:
        path = run.file("attacks", one["cell"], f"{one['file']}.safetensors")
        images = _load(path) if path.is_file() else {}
        for victim in one.get("victims") or []:
            place = f"{victim['round']}-{victim['client']}"
            with malformed(str(path)):
                pictures = [
                    tuple(data_uri(image) for image in images.get(f"{kind}/{place}", [])[:MOST_IMAGES])
                    for kind in ("victim", "control")
                ]
            if pictures[0]:
                found.append(Tiles(one["attack"], victim["round"], victim["client"], *pictures))
    return found


def _read(run: Run, name: str) -> Row:
    path = run.file(name)
    found = parse_json(path.read_bytes(), path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _attack(one: Mapping[str, Any]) -> Row:
    with malformed(f"attacks/{one['cell']}/{one['file']}.json"):
        null = [_number(answer.get("residual")) for answer in one.get("control") or []]
        victims = [_victim(answer) for answer in one.get("victims") or []]
        return {
            "attack": str(one["attack"]),
            "plugin": str(one.get("plugin") or one["attack"]),
            "paper": str(one.get("paper") or ""),
            "error": None if one.get("error") is None else str(one["error"]),
            "failed": bool(one.get("failed")),
            "victims": [
                row | {"null_residual": null[index] if index < len(null) else None}
                for index, row in enumerate(victims)
            ],
        }


def _victim(answer: Mapping[str, Any]) -> Row:
    certificates = [dict(found) for found in answer.get("certificates") or []]
    told = [str(found["text"]) for found in certificates if found["verdict"] != "not applicable"]
    labels, replay = answer.get("labels"), _number(answer.get("replayed"))
    unique = any(found["verdict"] == UNIQUE for found in certificates)
    return {
        "round": int(answer["round"]),
        "client": int(answer["client"]),
        "images": int(answer.get("images") or 0),
        "labels": None if labels is None else [int(label) for label in labels],
        "residual": _number(answer.get("residual")),
        "refusal": None if answer.get("refusal") is None else str(answer["refusal"]),
        "replayed": replay,
        "unique": unique,
        "checked": unique and replay is not None and replay <= EXPLAINED,
        "holds": unique and bool(answer.get("images")) and (replay is None or replay <= EXPLAINED),
        "certificate": "; ".join(told) or None,
        "not_applicable": [str(f["text"]) for f in certificates if f["verdict"] == "not applicable"],
    }


def _headline(attacks: list[Row], updates: int) -> str:
    first = f"Recorded on a deployment, without ground truth: {plural(updates, 'update')}."
    if not updates:
        return f"{first} Nothing can be attacked."
    if not attacks:
        return f"{first} Not attacked yet: fedlab attack RUN --app APP does it."
    victims = {(row["round"], row["client"]) for one in attacks for row in one["victims"]}
    proved: dict[tuple[int, int], str] = {}
    for one in attacks:
        for row in one["victims"]:
            if row["holds"]:
                proved.setdefault((row["round"], row["client"]), one["attack"])
    if not victims:
        return f"{first} No attack gave an answer."
    if not proved:
        none = f"none of {plural(len(victims), 'attacked update')}"
        told = f"{first} For {none} is an answer proved to be the only"
        if any(row["unique"] for one in attacks for row in one["victims"]):
            return (
                f"{told} one that explains it: what networks were fed is proved, and the images that are made"
                " of it do not fit. Is the range of the pixels right?"
            )
        return f"{told} one. What residuals and controls say stands below; there is no score."
    names = listed(sorted(set(proved.values())))
    told = (
        f"{first} For {len(proved)} of {plural(len(victims), 'attacked update')} the records that {names}"
        " reconstructed are proved to be the only ones that explain the update"
    )
    checked = {(row["round"], row["client"]) for one in attacks for row in one["victims"] if row["checked"]}
    if proved.keys() <= checked:
        return f"{told}: its server can see them."
    open_ = len(proved.keys() - checked)
    return (
        f"{told}, if clients take plain steps of SGD. For {open_} of them that is assumed, and no replay"
        " could check it: say how clients train (local-steps, batch-size)."
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
