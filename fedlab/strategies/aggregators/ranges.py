"""What the arguments of aggregators may be. A scenario checks them too, but Python callers pass it by."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from fedlab.errors import UsageError

Attackers = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]


def whole(name: str, value: int, least: int) -> int:
    """The value, if it is a whole number of at least `least`.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value!r}; expected a whole number >= {least} (of the aggregator)")
    return value


def above_zero(name: str, value: float, *, infinite: bool = False) -> float:
    """The value, if it is above 0, and finite unless `infinite` is allowed.

    Raises:
        UsageError: it is not.
    """
    if not 0.0 < value <= math.inf or (value == math.inf and not infinite):
        kind = "a number" if infinite else "a finite number"
        raise UsageError(f"{name} = {value}; expected {kind} above 0 (of the aggregator)")
    return float(value)
