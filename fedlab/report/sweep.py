"""The report of a sweep: every cell in one table, the axes as facets; from the sweep's directory alone.

It holds no clock, no path and nothing of how the cells came to be finished: a sweep that was killed and
resumed has the report, byte by byte, of one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlab import files
from fedlab.report.build import HTML_NAME, JSON_NAME
from fedlab.report.reading import LEVELS, listed, plural
from fedlab.report.sweep_cells import cell_row, read_sweep
from fedlab.report.sweep_words import headline, in_words, short

Row = dict[str, Any]


@dataclass(frozen=True)
class SweepReport:
    """Leak and accuracy of every cell.

    Attributes:
        directory: that of the sweep; html: the page; data: what report.json holds.
    """

    directory: Path
    html: Path
    data: Row = field(repr=False)

    def cells(self, status: str) -> list[Row]:
        """The cells that are `finished`, `failed`, `interrupted` or `waiting`."""
        return [cell for cell in self.data["cells"] if cell["status"] == status]


def build(directory: str | os.PathLike[str]) -> SweepReport:
    """Read the directory of a sweep and write its report.json and report.html.

    Raises:
        DataError: it is no sweep, or a file of it is damaged.
        BackendError: the report cannot be written.
    """
    from fedlab.report.sweep_page import render

    path = Path(directory)
    data = assemble(path)
    html = render(data)
    files.write_text(path / JSON_NAME, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    files.write_text(path / HTML_NAME, html)
    return SweepReport(path, path / HTML_NAME, data)


def assemble(path: Path) -> Row:
    """Everything that is known of a sweep, as strict JSON.

    Raises:
        as `build`.
    """
    sweep = read_sweep(path)
    cells = [cell_row(path, cell) for cell in sweep["cells"]]
    axes = [_axis(axis, [one["key"] for one in sweep["axes"]]) for axis in sweep["axes"]]
    return {
        "schema_version": 1,
        "kind": "sweep",
        "name": str(sweep["name"]),
        "claim": str(sweep.get("claim") or ""),
        "scenario_sha256": str(sweep.get("scenario_sha256") or ""),
        "headline": headline(axes, cells),
        "limits": list(_limits(axes, cells)),
        "axes": axes,
        "cells": cells,
        "levels": {
            level.key: {"symbol": level.symbol, "word": level.word, "meaning": level.meaning}
            for level in LEVELS.values()
        },
    }


def _axis(axis: Row, keys: list[str]) -> Row:
    values = axis["values"]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    return {
        "key": axis["key"],
        "name": short(keys)[axis["key"]],
        "values": values,
        "words": [in_words(one) for one in values],
        "numbers": numbers,
    }


def _limits(axes: list[Row], cells: list[Row]) -> Iterator[str]:
    """What must be known before cells are compared."""
    missing = [cell for cell in cells if cell["status"] != "finished"]
    if missing:
        names = [cell["name"] for cell in missing]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield (
            f"{plural(len(missing), 'cell')} not finished, so that nothing is known of them:"
            f" {', '.join(names[:5])}{more}."
        )
    yield (
        "Each interval is of its own cell, at 95 %. Chance has its share in the largest and the smallest of"
        " many cells: repeat them with other seeds before believing a small difference."
    )
    if not any(axis["key"] in ("seed", "seeds") for axis in axes):
        yield "Every cell has the seeds of the scenario: a sweep over seed shows how much of it is chance."
    attacks = {row["attack"] for cell in cells for row in cell["rows"] if row["attack"]}
    if len(attacks) > 1:
        yield (
            f"A row shows the strongest attack of its cell, which is not the same everywhere:"
            f" {listed(sorted(attacks))}."
        )
    thresholds = sorted({cell["threshold_db"] for cell in cells if cell["threshold_db"] is not None})
    if len(thresholds) > 1:
        yield f"Cells differ in what counts as recovered: {listed([f'{one:g} dB' for one in thresholds])}."
    yield "What each attacker knew, and how far its evidence reaches, stands in the report of each cell."
