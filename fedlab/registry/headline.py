"""The few figures by which a run is known, from its report alone: accuracy, strongest leak, ε, membership."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedlab.glossary import LEVELS
from fedlab.ladder import reached

Row = dict[str, Any]
Range = tuple[float, float]


@dataclass(frozen=True)
class Headline:
    """Of all that a run trained; None or () where nothing was measured.

    Attributes:
        accuracy: lowest and highest test accuracy.
        attack: the strongest that answered with images of those that the verdict counts, ranked as there.
        psnr: its median, dB. recovered, images: of its victims.
        auc: the highest area under a membership attack's curve.
        epsilon: the smallest and the largest that is proved; () if nothing is.
        unproved: whether something was trained for which nothing is proved.
        gates: failed, and held against the report in all.
        text: the report's first sentence.
    """

    accuracy: Range | None = None
    attack: str = ""
    psnr: float | None = None
    recovered: int | None = None
    images: int | None = None
    auc: float | None = None
    epsilon: Range | None = None
    unproved: bool = False
    gates: tuple[int, int] = (0, 0)
    text: str = ""


def headline(report: Row) -> Headline:
    """Of a run's report.json.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no report, or a damaged one.
    """
    rows = reached(report["attacks"])
    strongest = max(
        (one for one in rows if one["psnr_median"] is not None), key=_taken, default=dict[str, Any]()
    )
    proofs = [one["epsilon"] for one in report["guarantees"]]
    gates = [one["verdict"] for one in report.get("gates") or []]
    areas = [one["auc"] for one in reached(report.get("membership") or []) if one["auc"] is not None]
    return Headline(
        accuracy=_range(one["accuracy"] for one in report["utility"]),
        attack=str(strongest.get("attack", "")),
        psnr=None if not strongest else float(strongest["psnr_median"]),
        recovered=strongest.get("recovered"),
        images=strongest.get("images"),
        auc=max(map(float, areas), default=None),
        epsilon=_range(proofs),
        unproved=None in proofs,
        gates=(sum(one != "passed" for one in gates), len(gates)),
        text=str(report["verdict"]["headline"]),
    )


def _taken(row: Row) -> tuple[int, float, float]:
    """By what the report ranks attacks that answered with images."""
    known = LEVELS.get(row["level"])
    return known.rank if known else 0, float(row["fraction_recovered"] or 0.0), float(row["psnr_median"])


def _range(values: Iterable[float | None]) -> Range | None:
    known = [float(one) for one in values if one is not None]
    return (min(known), max(known)) if known else None
