"""What the arrays of an answer mean: the weights after training, as a rule; with some apps their change.

Nothing in a message says which. The replay does: what the recorded steps make of the weights is what was
sent, or how far it is from where they began, with one sign or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.apps.contract import Arrays, Recording, Sight
from fedlab.apps.replay import compare

Values = NDArray[Any]
WEIGHTS = "the weights after training"
TURNED = "the change of the weights, with its sign turned"
MEANINGS: dict[str, Callable[[Values, Values], Values]] = {
    WEIGHTS: lambda before, after: after,
    "the change of the weights": lambda before, after: before + after,
    TURNED: lambda before, after: before - after,
}
"""The weights after training, from those before it and what was answered."""


def meaning_of(sight: Sight, recording: Recording, names: Mapping[str, str]) -> str:
    """The key of `MEANINGS` that the replay confirms; `WEIGHTS` where it confirms none."""
    for meaning in MEANINGS:
        meant = as_weights(sight, meaning)
        found = compare(recording, meant.before, meant.after, names)
        if found.distance is None:
            return WEIGHTS  # no replay, or nothing moved
        if found.agrees:
            return meaning
    return WEIGHTS


def as_answer(before: Values, weights: Values, meaning: str) -> Values:
    """What says "these weights" in an answer of that meaning."""
    if not np.issubdtype(before.dtype, np.floating):
        return weights
    return before - weights if meaning == TURNED else weights - before if meaning != WEIGHTS else weights


def as_weights(sight: Sight, meaning: str) -> Sight:
    """The sight as if weights had been answered."""
    read = MEANINGS[meaning]
    after: Arrays = {
        key: read(sight.before[key], value) if np.issubdtype(value.dtype, np.floating) else value
        for key, value in sight.after.items()
    }
    return replace(sight, after=after)
