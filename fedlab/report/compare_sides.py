"""The runs of a comparison, and what each of them measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.errors import UsageError
from fedlab.report.build import JSON_NAME, AuditReport, build
from fedlab.report.reading import key
from fedlab.report.rundir import Run, read_run
from fedlab.report.sweep_cells import is_sweep

Row = dict[str, Any]
Place = tuple[str, ...]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Side:
    """One of the runs: `letter` stands for it in tables."""

    letter: str
    run: Run
    data: Row

    def rows(self, table: str) -> dict[Place, Row]:
        """The rows of a table of its report by what they are about."""
        return {place(row): row for row in self.data.get(table) or []}


def place(row: Row) -> Place:
    """What a row is about: attack, threat, strategy, defense, client mode."""
    return str(row.get("attack") or ""), str(row.get("threat_label") or ""), *key(row)


def opened(paths: Sequence[Path]) -> list[Side]:
    """The runs, each with its report, which is built where there is none.

    Raises:
        UsageError: one is not there, is a sweep, or shares no metric with the first: nothing to compare.
        DataError: a directory is no run, its report is of another version, or a file is damaged.
        NewerRun: a later fedlab wrote it.
    """
    sides = [_open(letter, path) for letter, path in zip(LETTERS, paths, strict=False)]
    base = dict.fromkeys(_metrics(sides[0]))
    for side in sides[1:]:
        other = dict.fromkeys(_metrics(side))
        if not base.keys() & other.keys():
            told = [
                f"{one.run.directory} ({one.data['run']['status']}) measured {', '.join(found) or 'nothing'}"
                for one, found in ((sides[0], base), (side, other))
            ]
            raise UsageError(
                f"these runs share no metric: {'; '.join(told)}. Expected runs that measured the same:"
                " accuracy, the same attack, or ε. A run that did not end goes on with fedlab resume"
            )
    return sides


def _open(letter: str, path: Path) -> Side:
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such directory; expected a run's, as in runs/quickstart-1")
    if is_sweep(path):
        raise UsageError(
            f"{path} is a sweep; expected runs, such as its cells: {path / 'cells'}/NAME. All of them stand"
            f" side by side in {path / 'report.html'}"
        )
    run = read_run(path)
    if not (path / JSON_NAME).is_file():
        build(path)
    return Side(letter, run, AuditReport.load(path).data)


def _metrics(side: Side) -> Iterator[str]:
    """What it has at least one figure of."""
    if any(row["accuracy"] is not None for row in side.data.get("utility") or []):
        yield "accuracy"
    for row in side.data.get("attacks") or []:
        if row["psnr_median"] is not None or row["label_accuracy"] is not None:
            yield f"reconstruction by {row['attack']}"
    for row in side.data.get("membership") or []:
        if row["auc"] is not None:
            yield f"membership by {row['attack']}"
    if any(row["epsilon"] is not None for row in side.data.get("guarantees") or []):
        yield "ε"
