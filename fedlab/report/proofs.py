"""What closed forms proved about an attack's answers, put together over its victims."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedlab.audit.scoring import VictimScore

VERDICTS = ("unique", "not unique", "not applicable")
_FIGURES = ("rank", "unknowns", "condition", "null_space", "residual")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w|[.-]\w)")


def proofs(scores: Sequence[VictimScore]) -> list[dict[str, Any]]:
    """One entry per method, in the order in which they were tried: how often it reached which verdict.

    `text` says it in words. Rank, unknowns, condition, null space and residual are given as the smallest and
    the largest over victims.
    """
    methods: dict[str, list[dict[str, Any]]] = {}
    for score in scores:
        for one in score.certificates:
            methods.setdefault(str(one.get("method")), []).append(one)
    return [_method(name, found, len(scores)) for name, found in methods.items()]


def _method(name: str, found: list[dict[str, Any]], updates: int) -> dict[str, Any]:
    reached = {verdict: [one for one in found if one.get("verdict") == verdict] for verdict in VERDICTS}
    return {
        "method": name,
        "updates": updates,
        **{verdict.replace(" ", "_"): len(those) for verdict, those in reached.items()},
        "solved": list(dict.fromkeys(str(one["solved"]) for one in found if one.get("solved"))),
        **{key: _range([one.get(key) for one in found]) for key in _FIGURES},
        "text": "; ".join(_words(verdict, those, updates) for verdict, those in reached.items() if those),
    }


def _words(verdict: str, found: list[dict[str, Any]], updates: int) -> str:
    """unique in 8 of 8 updates; not unique in 2 of 8 updates: null space of dimension 36"""
    text = f"{verdict} in {len(found)} of {updates} update{'s' if updates != 1 else ''}"
    reasons = merged(str(one["reason"]) for one in found if one.get("reason"))
    if verdict == "not applicable":
        return f"{text} because {'; '.join(reasons) or 'no reason given'}"
    null = _range([one.get("null_space") for one in found])
    if verdict == "not unique" and null is not None:
        low, high = (f"{value:g}" for value in null)
        text += f": null space of dimension {low if low == high else f'{low} to {high}'}"
    return text + (f" ({'; '.join(reasons)})" if reasons else "")


def merged(reasons: Iterable[str]) -> list[str]:
    """Each reason once; those that differ in figures alone as one, "residual 0.4 to 0.5"."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for reason in reasons:
        alike.setdefault(tuple(_NUMBER.split(reason)), []).append(_NUMBER.findall(reason))
    found = []
    for words, figures in alike.items():
        ranges = (_from_to(each) for each in zip(*figures, strict=True))
        found.append("".join(text + next(ranges, "") for text in words))
    return found


def _from_to(figures: Sequence[str]) -> str:
    low, high = min(figures, key=float), max(figures, key=float)
    return low if float(low) == float(high) else f"{low} to {high}"


def _range(values: list[Any]) -> list[float] | None:
    known = [float(value) for value in values if value is not None and np.isfinite(float(value))]
    return [min(known), max(known)] if known else None
