"""What each piece of knowledge is worth: the same attack on the same updates under several threat models."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from fedlab.audit.difference import Difference, difference
from fedlab.audit.scoring import VictimScore
from fedlab.report.reading import AXES, SILENT, clause, key, listed, percent
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]

KNOWLEDGE = {
    "labels": "the labels of the batch",
    "batch_size": "the batch size",
    "learning_rate": "the learning rate",
    "local_steps": "the number of local steps",
    "momentum": "the clients' momentum and weight decay",
    "client_mode": "how clients run their network",
    "dropout_rate": "the dropout rates",
    "defense": "the defense and its settings",
    "dropout_masks": "which units dropout switched off",
    "batch_norm_buffers": "batch-norm statistics before and after",
    "proxy_data": "data of the same kind",
}
"""Fields of a threat model that grant knowledge, in words."""

UNAWARE = "unaware"
"""The threat of an attacker who does not know the defense; an audit adds it, and tells of it on its own."""

_TOLD = ("level", "symbol", "reading", "refusal", "clients_refused", "error")

CEILING_DB = 60.0
"""Above this, no eye can tell images apart: higher PSNR counts as this much in differences."""


def granted(threat: Row, piece: str) -> bool:
    """Whether a threat model grants a piece of knowledge."""
    return threat.get(piece) is not None if piece == "client_mode" else bool(threat.get(piece))


def knowledge(run: Run, rows: list[Row]) -> list[Row]:
    """One group per attack and pool that faced more than one threat: its base row first, then the others.

    Each row has what sets its attacker apart (`what`), its scores, and by how much they exceed the base's.
    """
    groups = []
    for base in rows:
        if base["threat_label"]:
            continue
        others = [
            row for row in rows if row["threat_label"] not in ("", UNAWARE) and _place(row) == _place(base)
        ]
        if others:
            mine = victims_of(run, base)
            compared = [_row(one, base, _gain(run, one, mine)) for one in others]
            axes = {axis: base[axis] for axis in AXES}
            groups.append({"attack": base["attack"], **axes, "rows": [_row(base, base, None), *compared]})
    return groups


def answered(group: Row) -> bool:
    """Whether the attack answered anything under any threat: a table of dashes tells nothing."""
    return any(row["level"] not in SILENT for row in group["rows"])


def idle(groups: list[Row], who: Callable[[Row], str]) -> list[str]:
    """A sentence per attack that answered nothing, whatever its attacker was assumed to know."""
    told: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for group in groups:
        if not answered(group):
            said: dict[str, list[str]] = {}
            for row in group["rows"]:
                said.setdefault(_silence(row), []).append(row["threat_label"] or "as assumed")
            reasons = tuple((reason, listed(labels)) for reason, labels in said.items())
            told.setdefault((group["attack"], reasons), []).append(who(group))
    return [
        f"{attack} on {listed(pools)}: "
        + "; ".join(f"{reason} ({labels})" if len(reasons) > 1 else reason for reason, labels in reasons)
        + "."
        for (attack, reasons), pools in told.items()
    ]


def sets_apart(groups: list[Row]) -> dict[str, str]:
    """What each threat's attacker knows more, knows less or may do."""
    return {row["threat_label"]: row["what"] for group in groups for row in group["rows"] if row["what"]}


def _place(row: Row) -> tuple[str, ...]:
    return row["attack"], *key(row)


def victims_of(run: Run, row: Row) -> dict[Hashable, VictimScore]:
    """The victims of a row by cell, round and client."""
    cells = {cell["name"] for cell in run.cells if key(cell) == key(row)}
    found: dict[Hashable, VictimScore] = {}
    for file in run.attacks:
        if (file["attack"], file["threat_label"]) != (row["attack"], row["threat_label"]):
            continue
        if file["cell"] in cells:
            with malformed(f"attacks/{file['cell']}/{file['file']}.json"):
                for one in file.get("victims") or []:
                    score = VictimScore.from_dict(one)
                    found[file["cell"], score.round, score.client] = score
    return found


def _gain(run: Run, row: Row, base: dict[Hashable, VictimScore]) -> Difference | None:
    mine = victims_of(run, row)
    # A sum of updates is another victim than each of them, though it goes by the number of one.
    same = all(len(mine[one].psnr) == len(base[one].psnr) for one in mine if one in base)
    return difference(mine, base, ceiling=CEILING_DB, paired=same and bool(mine.keys() & base.keys()))


def _row(row: Row, base: Row, gain: Difference | None) -> Row:
    return {
        "threat_label": row["threat_label"],
        "what": _what(row["threat"], base["threat"]) if row is not base else "",
        **{name: row[name] for name in ("psnr_median", "recovered", "images", "victims", "refused")},
        "control": row["control"]["psnr_median"],
        "label_accuracy": row["label_accuracy"],
        "difference": gain.mean if gain else None,
        "difference_ci95": list(gain.ci95) if gain and gain.ci95 else None,
        "difference_victims": gain.victims if gain else None,
        "paired": gain.paired if gain else None,
        **{name: row[name] for name in _TOLD},
        "worth": "" if row is base else _worth(row, base, gain),
    }


def _what(threat: Row, base: Row) -> str:
    """Also knows the labels of the batch; does not know the batch size."""
    more = [text for piece, text in KNOWLEDGE.items() if granted(threat, piece) and not granted(base, piece)]
    less = [text for piece, text in KNOWLEDGE.items() if granted(base, piece) and not granted(threat, piece)]
    parts = [f"also knows {listed(more)}"] if more else []
    parts += [f"does not know {listed(less)}"] if less else []
    if bool(threat.get("sums")) != bool(base.get("sums")):
        parts.append("sees only the sum of a round's updates" if threat.get("sums") else "sees each update")
    if threat.get("server") != base.get("server"):
        malicious = threat.get("server") == "malicious"
        parts.append("may send clients altered models" if malicious else "sends clients what was agreed")
    text = "; ".join(parts) or "as the run's own attacker"
    return text[0].upper() + text[1:]


def _worth(row: Row, base: Row, gain: Difference | None) -> str:
    """What the difference means, in a sentence that needs no statistics."""
    if row["level"] in SILENT:
        return _silence(row)
    if row["labels_granted"] and row["psnr_median"] is None:
        return "it was given the labels, and finds nothing else"
    if row["level"] == "labels" == base["level"]:
        named, before = (percent(one["label_accuracy"]) for one in (row, base))
        return f"names {named} of the labels, as against {before}"
    if gain is None:
        return f"no image to compare: {row['reading']}"
    if gain.ci95 is None:
        return "one victim: no interval, so nothing can be said"
    low, high = gain.ci95
    if low <= 0.0 <= high:
        return "no difference" if low == high else "no difference could be shown"
    size = "" if abs(gain.mean) >= 1.0 else "slightly "
    return f"this attacker gets {size}more" if gain.mean > 0 else f"this attacker gets {size}less"


def _silence(row: Row) -> str:
    """Why there is no answer; only what clients refused is a result."""
    if row["clients_refused"] is not None:
        return f"nothing: clients refused the altered model: {clause(row['clients_refused']['reason'])}"
    if row["level"] == "failed":
        return "not tested: the attack failed"
    return f"not tested: {clause(row['refusal'] or 'the attack gave no answer')}"
