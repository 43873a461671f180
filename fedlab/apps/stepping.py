"""What an optimizer's steps tell of the gradients that they were made of.

Steps of SGD, with momentum or without, are sums of gradients. Optimizers that divide each coordinate by a
mean of its own past magnitudes tell hardly more than signs: the first step of Adam (D. P. Kingma and J. Ba,
"Adam: A Method for Stochastic Optimization", ICLR 2015, https://arxiv.org/abs/1412.6980, algorithm 1) has
m = (1 - β₁) g and v = (1 - β₂) g², and is

    lr m / (1 - β₁) / (√(v / (1 - β₂)) + ε)  =  lr g / (|g| + ε).

Attackers are told so (`Disclosure.sent = "signs"`) and read signs; of several steps, the sign of their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.apps.contract import Recording
from fedlab.audit import Disclosure
from fedlab.audit.disclosure import NOTHING

SUMS = "SGD"
NORMALISED = frozenset({"Adam", "AdamW", "NAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"})
"""Optimizers of torch whose first step has the sign of the gradient, and about one size everywhere."""
DECOUPLED = frozenset({SUMS, "AdamW"})
"""Optimizers that take the learning rate times the weight decay off each weight, whatever the gradient."""


def steppers(recordings: Sequence[Recording]) -> set[str]:
    """Names of the optimizers that stepped."""
    return {one.optimizer.name for one in recordings if one.optimizer is not None}


def disclosed(recordings: Sequence[Recording]) -> Disclosure:
    """What an attacker makes of knowing the optimizer."""
    return Disclosure(sent="signs") if steppers(recordings) & NORMALISED else NOTHING


def untold(recordings: Sequence[Recording]) -> list[str]:
    """What the optimizer does that attacks do not reckon with, in clauses."""
    found: dict[str, None] = {}
    for one in recordings:
        if one.optimizer is None:
            continue
        name, settings = one.optimizer.name, one.optimizer.settings
        several = len(one.steps) + one.dropped > 1
        if several and name in NORMALISED:
            found[f"several steps of {name}, of whose sum attacks read the signs"] = None
        if several and settings.get("nesterov"):
            found["Nesterov's momentum, which attacks take for plain momentum"] = None
        if several and _number(settings, "momentum") and _number(settings, "dampening"):
            found[f"momentum with dampening {settings['dampening']:g}, which attacks take for none"] = None
        if name not in DECOUPLED and _number(settings, "weight_decay"):
            found[f"weight decay within {name}, which attacks take for a part of the gradient"] = None
        if one.optimizer.differ:
            keys = " and ".join(one.optimizer.differ)
            found[f"groups of parameters that differ in {keys}, which attacks take for the first's"] = None
    return list(found)


def rate_of(recording: Recording) -> float | None:
    """How far one step goes along its gradient: the learning rate, and of a first step of Nesterov's more."""
    settings = recording.optimizer.settings if recording.optimizer is not None else {}
    rate = settings.get("lr")
    if not isinstance(rate, int | float):
        return None
    first = len(recording.steps) + recording.dropped == 1 and settings.get("nesterov")
    return float(rate) * (1.0 + _number(settings, "momentum") if first else 1.0)


def _number(settings: Mapping[str, Any], key: str) -> float:
    value = settings.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
