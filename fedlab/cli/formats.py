"""`--format` and what belongs to it: the report as another document, on stdout or in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedlab.cli.output import plain
from fedlab.errors import UsageError

if TYPE_CHECKING:
    from fedlab.report import AuditReport

Format = Literal["html", "md", "json", "csv"]
FORMAT = Annotated[
    Format,
    typer.Option(
        "--format",
        help="html: the page, whose path is printed; md: a readable report; json: report.json; csv: one table"
        " of it. All but html go to stdout, or to --out.",
    ),
]
OUT = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the document there.", show_default=False),
]
TABLE = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="NAME",
        help="Which table of the report --format csv writes; attacks unless given.",
        show_default=False,
    ),
]


def document(
    form: Format, table: str | None, out: Path | None, *, json: bool
) -> Callable[[AuditReport], None] | None:
    """What writes the document that was asked for; None for the page and a summary, as ever.

    Raises:
        UsageError: options that do not go together, or no such table.
    """
    if json and (form != "html" or out is not None):
        raise UsageError("--json prints an object of its own; leave it out beside --format and --out")
    if table is not None and form != "csv":
        raise UsageError(f"--table is for --format csv, which has one table; got --format {form}")
    if form == "html" and out is None:
        return None
    from fedlab.report.export import exported, known_table

    chosen = known_table(table or "attacks")

    def write(audit: AuditReport) -> None:
        text = exported(audit, form, chosen)
        if out is None:
            sys.stdout.write(text)
            return
        save(out, text)

    return write


def save(path: Path, text: str) -> None:
    """Write a document, and print where it lies.

    Raises:
        BackendError: it cannot be written.
    """
    from fedlab import files

    files.write_text(path, text)
    plain(str(path))
