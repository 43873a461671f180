"""What a recommendation is made of, and what rules may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedlab.report.controls import CONTROLS
from fedlab.report.reading import AXES

Row = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """The rows of the report that recommendations are made of.

    Attributes:
        own: whether the run trained by fedlab's own settings, and not as a Flower app of somebody's.
        who: what to call the pool that a row is about.
    """

    attacks: list[Row]
    utility: list[Row]
    guarantees: list[Row]
    frontier: list[Row]
    checks: list[Row]
    adaptive: list[Row]
    membership: list[Row]
    undefended: set[str]
    seeds: int
    samples: bool
    own: bool
    who: Callable[[Row], str]


def advise(
    kind: str, title: str, text: str, evidence: list[str], controls: str, about: Row | None = None
) -> Row:
    return {
        "kind": kind,
        "title": title,
        "text": text,
        "evidence": evidence,
        "controls": [CONTROLS[name] for name in controls.split()],
        "about": None if about is None else {axis: about[axis] for axis in AXES},
    }
