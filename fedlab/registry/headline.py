"""The few figures by which a run is known, from its report alone: accuracy, strongest leak, ε, membership.

A sweep is known by those of its cells, from the least to the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedlab.glossary import LEVELS
from fedlab.ladder import reached

Row = dict[str, Any]
Range = tuple[float, float]


@dataclass(frozen=True)
class Headline:
    """Of all that a run, or the cells of a sweep, trained; None or () where nothing was measured.

    Attributes:
        accuracy: lowest and highest test accuracy.
        attack: the strongest that answered with images of those that the verdict counts, ranked as there.
        psnr: its median, dB. recovered, images: of its victims.
        least: of a sweep, psnr, recovered and images of the cell whose strongest attack took the least.
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
    least: tuple[float, int, int] | None = None


def headline(report: Row) -> Headline:
    """Of a run's report.json.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no report, or a damaged one.
    """
    return over([report], str(report["verdict"]["headline"]))


def over(reports: Sequence[Row], text: str) -> Headline:
    """Of the cells of a sweep, from their report.json; `text` is what is said of all of them.

    Raises:
        as `headline`.
    """
    strongest = sorted((one for one in map(_strongest, reports) if one), key=_taken)
    most: Row = strongest[-1] if strongest else {}
    proofs = [one["epsilon"] for report in reports for one in report["guarantees"]]
    gates = [one["verdict"] for report in reports for one in report.get("gates") or []]
    members = [one for report in reports for one in reached(report.get("membership") or [])]
    return Headline(
        accuracy=_range(one["accuracy"] for report in reports for one in report["utility"]),
        attack=str(most.get("attack", "")),
        psnr=None if not most else float(most["psnr_median"]),
        recovered=most.get("recovered"),
        images=most.get("images"),
        auc=max((float(one["auc"]) for one in members if one["auc"] is not None), default=None),
        epsilon=_range(proofs),
        unproved=None in proofs,
        gates=(sum(one != "passed" for one in gates), len(gates)),
        text=text,
        least=_figures(strongest[0]) if len(strongest) > 1 else None,
    )


def _strongest(report: Row) -> Row | None:
    answered = [one for one in reached(report["attacks"]) if one["psnr_median"] is not None]
    return max(answered, key=_taken, default=None)


def _figures(row: Row) -> tuple[float, int, int]:
    return float(row["psnr_median"]), int(row["recovered"]), int(row["images"])


def _taken(row: Row) -> tuple[int, float, float]:
    """By what the report ranks attacks that answered with images."""
    known = LEVELS.get(row["level"])
    return known.rank if known else 0, float(row["fraction_recovered"] or 0.0), float(row["psnr_median"])


def _range(values: Iterable[float | None]) -> Range | None:
    known = [float(one) for one in values if one is not None]
    return (min(known), max(known)) if known else None
