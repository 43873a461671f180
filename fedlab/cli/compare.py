"""`fedlab compare`: runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedlab.cli.formats import OUT, save
from fedlab.cli.output import as_json, grid, stdout
from fedlab.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    form: Annotated[
        Literal["table", "html", "md", "csv", "json"],
        typer.Option(
            "--format",
            help="table: for reading here; html: a page with curves, to --out; md, csv, json: to stdout,"
            " or to --out.",
        ),
    ] = "table",
    out: OUT = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show two or more runs side by side: what was set otherwise, and what came of it.

    RUN is the directory that `fedlab run` prints when it ends. The first is what the others are compared to:

    fedlab compare runs/quickstart-1 runs/quickstart-2

    fedlab compare runs/quickstart-1 runs/quickstart-2 --format html --out compared.html
    """
    if json and form not in ("table", "json"):
        raise UsageError(f"--json and --format {form} are both given; expected one of them")
    if form == "table" and out is not None and not json:
        raise UsageError("--out takes a document; expected --format html, md, csv or json beside it")
    if form == "html" and out is None:
        raise UsageError("--format html needs a file to write the page to; expected --out FILE beside it")
    from fedlab.report.compare import compare as compared

    data = compared(runs)
    if json:
        form = "json"
    if form == "table":
        _print(data)
    elif form == "json" and out is None:
        as_json(data)
    else:
        text = _document(data, form)
        if out is None:
            sys.stdout.write(text)
        else:
            save(out, text)


def _document(data: dict[str, Any], form: str) -> str:
    from json import dumps

    from fedlab.report.export.comparison import csv_text, markdown

    if form == "html":
        from fedlab.report.compare_page import render

        return render(data)
    if form == "json":
        return dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return markdown(data) if form == "md" else csv_text(data)


def _print(data: dict[str, Any]) -> None:
    from rich.text import Text

    from fedlab.report.export.comparison import sheets

    console = stdout()
    for sheet in sheets(data):
        table = grid(*(head.removeprefix(">") for head in sheet.heads))
        for column, head in zip(table.columns, sheet.heads, strict=True):
            column.justify = "right" if head.startswith(">") else "left"
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(Text(sheet.title, style="bold"))
        console.print(table)
        if sheet.note:
            console.print(Text(sheet.note, style="dim"))
