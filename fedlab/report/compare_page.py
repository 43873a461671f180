"""A comparison as one page in the looks of a run's report; it needs nothing but itself, and no script."""

from __future__ import annotations

from fedlab.report.compare_figures import course, tradeoffs
from fedlab.report.compare_sides import Row
from fedlab.report.export.comparison import sheets
from fedlab.report.fleet_figures import dashes
from fedlab.report.page import dress, environment
from fedlab.report.reading import listed, namer
from fedlab.report.svg import SERIES

MOST_PANELS = 6
"""Curves that are shown at once; the others unfold."""


def render(data: Row) -> str:
    """The page for what `fedlab.report.compare.compare` found."""
    runs = data["runs"]
    letters = [run["letter"] for run in runs]
    called = namer(data["weights"])
    return (
        environment(data["weights"])
        .get_template("compare.html.j2")
        .render(
            data=data,
            title=listed([run["label"] for run in runs]),
            series=[
                (run, place % len(SERIES) + 1, " ".join(f"{one:g}" for one in dashes(place)))
                for place, run in enumerate(runs)
            ],
            courses=[
                (called(row), course(f"course-{number}", row, letters))
                for number, row in enumerate(data["curves"], start=1)
            ],
            most_panels=MOST_PANELS,
            trades=tradeoffs(data),
            sheets=[sheet for sheet in sheets(data) if sheet.title != "Runs"],
            **dress(),
        )
    )
