"""report.html of a sweep: the run report's looks, one table, small multiples; it needs nothing else."""

from __future__ import annotations

from typing import Any

from fedlab.report import reading
from fedlab.report.page import dress, environment
from fedlab.report.sweep_figure import DASHES, along, panels, series
from fedlab.report.sweep_words import called


def render(data: dict[str, Any]) -> str:
    """The page for the report.json `data` of a sweep."""
    rows = [row for cell in data["cells"] for row in cell["rows"]]
    names = series(data)
    drawn, left_out = panels(data)
    legend = [
        (name, place, " ".join(map(str, dashes)) if dashes[0] else "")
        for place, (name, dashes) in enumerate(zip(names, DASHES, strict=False), start=1)
    ]
    return (
        environment([])
        .get_template("sweep.html.j2")
        .render(
            data=data,
            called=lambda row: called(row, rows),
            several=len(names) > 1,
            membership=any(row["auc"] is not None for row in rows),
            used=[level for level in data["levels"] if any(row["level"] == level for row in rows)],
            along=along(data["axes"]),
            seeds=any(axis["key"] in ("seed", "seeds") and len(axis["values"]) > 1 for axis in data["axes"]),
            panels=drawn,
            left_out=left_out,
            legend=legend if len(names) > 1 else [],
            unlined=names[len(legend) :],
            untried=reading.UNTRIED,
            **dress(),
        )
    )
