"""What an attacker may be assumed to know, least first, in the words of a scenario's `[threat]`.

The levels: what is on the wire (`weights`), what the server itself told the clients (`protocol`, the
default), data of the same kind (`proxy`), and what no server knows but an upper bound may assume (`labels`,
`oracle`). They follow A. Carletti et al., "SoK: Gradient Inversion Attacks in Federated Learning", USENIX
Security 2025, in spirit; theirs are letters, and mix knowledge with means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
