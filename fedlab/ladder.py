"""What an attacker may be assumed to know, least first, in the words of a scenario's `[threat]`.

The levels: what is on the wire (`weights`), what the server itself told the clients (`protocol`, the
default), data of the same kind (`proxy`), and what no server knows but an upper bound may assume (`labels`,
`oracle`). They follow A. Carletti et al., "SoK: Gradient Inversion Attacks in Federated Learning", USENIX
Security 2025, in spirit; theirs are letters, and mix knowledge with means.

Nothing heavy is imported here, so that the list of runs counts the same attackers as their reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

Level = Literal["weights", "protocol", "proxy", "labels", "oracle"]

DENIED: Mapping[str, bool] = dict.fromkeys(
    (
        "labels",
        "batch_size",
        "learning_rate",
        "local_steps",
        "momentum",
        "client_mode_known",
        "dropout_rate",
        "dropout_masks",
        "batch_norm_buffers",
        "proxy_data",
        "defense",
    ),
    False,
)
"""Every piece of knowledge; a server's manners (`server`, `sums`) are none."""

PROTOCOL: Mapping[str, bool] = {
    **DENIED,
    "batch_size": True,
    "learning_rate": True,
    "local_steps": True,
    "momentum": True,
    "client_mode_known": True,
    "dropout_rate": True,
    "batch_norm_buffers": True,
    "defense": True,
}

LADDER: Mapping[Level, Mapping[str, bool]] = {
    "weights": DENIED,
    "protocol": PROTOCOL,
    "proxy": {**PROTOCOL, "proxy_data": True},
    "labels": {**PROTOCOL, "labels": True},
    "oracle": dict.fromkeys(DENIED, True),
}
"""Levels by name, from the least knowledge to the most."""

UNUSED = " (defense unused)"
"""Behind the name of an attack by one who knows the defense and makes no use of that."""


def assumed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose attacker is that of `[threat]`, which verdicts are about; older runs have no other."""
    return [row for row in rows if not row.get("threat_label")]


def reached(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the attacker of `[threat]`, and what it reaches without using that it knows the defense.

    Whoever knows a defense may act as if it did not. Where that takes more, it counts, by a name that tells.
    """
    rows = list(rows)
    own = assumed(rows)
    less = [{**row["threat"], "defense": False} for row in own if row.get("threat")]
    unused = [row for row in rows if row.get("threat_label") and row.get("threat") in less]
    return own + [row | {"attack": f"{row['attack']}{UNUSED}"} for row in unused]
