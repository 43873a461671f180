"""`fedlab data list|fetch|verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedlab.cli.output import as_json, grid, plain, stderr, stdout
from fedlab.errors import DataError


def known(incomplete: str) -> list[str]:
    """For shell completion."""
    from fedlab.tasks import store

    return [entry.name for entry in store.catalogue() if entry.name.startswith(incomplete)]


NAME = typer.Argument(metavar="NAME...", autocompletion=known, show_default=False)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Which data sets are here; fetch and verify them.", no_args_is_help=True)
    group.command("list")(list_)
    group.command()(fetch)
    group.command()(verify)
    app.add_typer(group, name="data")


def list_(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the data sets: here or missing, size, licence."""
    from rich.text import Text

    from fedlab.tasks import store

    entries = store.catalogue()
    if json:
        as_json([vars(entry) for entry in entries])
        return
    table = grid("name", "status", "size", "licence", "where, or where from")
    for entry in entries:
        style = "yellow" if entry.status == "missing" else "green"
        table.add_row(
            Text(entry.name, style="bold"),
            Text(entry.status, style=style),
            Text(size(entry.size)),
            Text(entry.licence),
            Text(str(entry.where or entry.origin)),
        )
    stdout().print(table)
    missing = [entry.name for entry in entries if entry.status == "missing"]
    if missing:
        stdout().print(Text(f"\nTo get one: fedlab data fetch {missing[0]}"))


def fetch(names: Annotated[list[str], NAME]) -> None:
    """Download data sets with pinned hashes, where they are not here already."""
    from fedlab.tasks import store

    for name in names:
        entry = store.status(name)
        if entry.status == "missing":
            stderr().print(
                f"{name}: fetching {size(entry.size)} from {entry.origin}", soft_wrap=True, markup=False
            )
        plain(f"{name}: {store.fetch(name)}")


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", autocompletion=known, show_default=False),
    ] = None,
) -> None:
    """Check the files of data sets, of all that are here unless named, against their pinned hashes.

    Exits 3 if one is missing or altered.
    """
    from fedlab.tasks import store

    chosen = names or [entry.name for entry in store.catalogue() if entry.status != "missing"]
    faults = []
    for name in chosen:
        try:
            files = store.verify(name)
        except DataError as error:
            faults.append(str(error))
        else:
            plain(f"{name}: {len(files)} file{'s' if len(files) != 1 else ''} as pinned")
    if faults:
        raise DataError("\n".join(faults))


def size(count: int) -> str:
    """`0.3 MB`"""
    return f"{count / 1e6:.1f} MB"
