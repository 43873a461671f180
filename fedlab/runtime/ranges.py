"""Ranges of numbers that come from Python, where no schema has checked them."""

from __future__ import annotations

import math
from numbers import Real

from fedlab.errors import UsageError


def at_least_zero(**values: float) -> None:
    """Raises UsageError for a value that is negative or not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise UsageError(f"{name} = {value!r}; expected a finite number >= 0")


def above_zero(**values: float) -> None:
    """Raises UsageError for a value that is not positive or not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < value < math.inf:
            raise UsageError(f"{name} = {value!r}; expected a finite number > 0")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
