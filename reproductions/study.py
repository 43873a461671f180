"""A study: a scenario with its paper's claim, variants of it, what is measured, and the bars to clear."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t

from fedlab.clients import LocalRule
from fedlab.experiment.setup import Setup
from fedlab.tasks import State

ROOT = Path(__file__).parent.parent
SCENARIOS = ROOT / "scenarios" / "reproductions"

Figures = dict[str, Any]
"""What one run comes to: numbers, or one number per round."""

Found = Mapping[str, Sequence[Figures]]
"""By variant: the figures of each seed, in the order of the seeds."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: its metrics as in metrics.json, its model, and what it was made of."""

    setup: Setup
    metrics: Mapping[str, Any]
    state: State

    def history(self, key: str) -> list[float]:
        """A figure (accuracy, loss) after each round that was evaluated."""
        return [float("nan") if one[key] is None else one[key] for one in self.metrics["rounds"]]


@dataclass(frozen=True)
class Variant:
    """What a run changes in the study's scenario: values as after `--set`, or a rule of its own."""

    changes: tuple[str, ...] = ()
    rule: Callable[[], LocalRule] | None = None


@dataclass(frozen=True)
class Bar:
    """A figure that must reach a bound, by seed; the mean counts. Without a bound it is only shown."""

    what: str
    values: tuple[float, ...]
    paper: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        return statistics.fmean(self.values)

    @property
    def met(self) -> bool:
        high = self.at_most is None or self.value <= self.at_most
        return high and (self.at_least is None or self.value >= self.at_least)

    @property
    def bound(self) -> str:
        parts = ((self.at_least, "≥"), (self.at_most, "≤"))
        return " and ".join(f"{sign} {bound:g}" for bound, sign in parts if bound is not None)

    @property
    def result(self) -> str:
        """`met`, `MISSED`, or nothing without a bound."""
        return ("met" if self.met else "MISSED") if self.bound else ""

    @property
    def figure(self) -> str:
        """The mean and its 95 % interval (Student's t over the seeds)."""
        if len(self.values) < 2:
            return f"{self.value:.3g}"
        low, high = interval(self.values)
        return f"{self.value:.3g} ({low:.3g} to {high:.3g})"


@dataclass(frozen=True)
class Study:
    """One reproduction.

    Attributes:
        name: of its module, and of its scenario in scenarios/reproductions/.
        paper: whose claim, and the number.
        work: our setup, in a line or two.
        variants: by name.
        seeds: of the runs, and of their data if `data_seed` names the key of its seed.
        measure: what is kept of a run.
        columns: of the table of variants: title -> figure of one run, and how to print a number.
        bars: from all that was found.
        notes: what a reader must know beside the figures.
    """

    name: str
    title: str
    paper: str
    work: str
    variants: Mapping[str, Variant]
    seeds: tuple[int, ...]
    measure: Callable[[Outcome], Figures]
    columns: Mapping[str, Callable[[Figures], float]]
    bars: Callable[[Found], list[Bar]]
    notes: tuple[str, ...] = ()
    data_seed: str = ""
    digits: Mapping[str, int] = field(default_factory=dict)

    @property
    def scenario(self) -> Path:
        return SCENARIOS / f"{self.name}.toml"

    def changes(self, variant: str, seed: int) -> list[str]:
        """All that one run sets."""
        own = [f"{self.data_seed}={seed}"] if self.data_seed else []
        return [f"seed={seed}", *own, *self.variants[variant].changes]

    def table(self, found: Found) -> list[list[str]]:
        """One line per variant: its name, and mean ± standard deviation over the seeds of each column."""
        return [
            [
                name,
                *(self._cell(title, [figure(one) for one in runs]) for title, figure in self.columns.items()),
            ]
            for name, runs in found.items()
        ]

    def _cell(self, title: str, values: Sequence[float]) -> str:
        if any(math.isnan(value) for value in values):
            return "–"
        digits = self.digits.get(title, 3)
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}"


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of independent values, two at least."""
    mean = statistics.fmean(values)
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def paired(found: Found, one: str, other: str, figure: Callable[[Figures], float]) -> tuple[float, ...]:
    """figure(one) − figure(other), seed by seed."""
    return tuple(figure(a) - figure(b) for a, b in zip(found[one], found[other], strict=True))
