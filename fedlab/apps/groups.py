"""Settings of an optimizer's groups of parameters, as far as they can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """What can be told of a group: numbers, texts, and tensors of one number."""
    found = {}
    for key, value in group.items():
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if _plain(value):
            found[key] = value
    return found


def differing(first: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Settings that other groups have otherwise than the first.

    >>> differing({"lr": 0.1, "momentum": 0.9}, [{"lr": 0.2, "momentum": 0.9}])
    ('lr',)
    """
    return tuple(key for key, value in first.items() if any(one.get(key, value) != value for one in others))


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(one, int | float) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
