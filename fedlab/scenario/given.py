"""Tables of a scenario as they came, before anything is known to be well typed."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from fedlab.scenario.places import Path

Mistake = tuple[Path, str]


def table(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The table that stands there; empty where none does."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
