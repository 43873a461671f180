"""`fedlab runs list|show|rm|tag|note|export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedlab.cli.output import as_json, plain, stderr, stdout
from fedlab.errors import UsageError

if TYPE_CHECKING:
    from fedlab.registry import Entry

FOLDER = Path("runs")


def known(context: typer.Context, incomplete: str) -> list[str]:
    """For shell completion."""
    from fedlab.registry import names

    folder = context.params.get("folder") or FOLDER
    return [one for one in names(Path(folder)) if one.startswith(incomplete)]


DIR = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where the runs are; names are looked up there.")
]
RUN = Annotated[str, typer.Argument(metavar="RUN", autocompletion=known, show_default=False)]
RUNS = Annotated[list[str], typer.Argument(metavar="RUN...", autocompletion=known, show_default=False)]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="What was run here: list, show, tag, export, remove.", no_args_is_help=True)
    group.command("list")(list_)
    group.command()(show)
    group.command()(rm)
    group.command()(tag)
    group.command()(note)
    group.command()(export)
    app.add_typer(group, name="runs")


def list_(
    folder: DIR = FOLDER,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help="Only these; more than once for more.", show_default=False
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="Only with all of these tags.", show_default=False),
    ] = None,
    cells: Annotated[bool, typer.Option("--cells", help="The cells of sweeps too, a line each.")] = False,
    json: JSON = False,
) -> None:
    """List runs and sweeps, the newest first: how each stands, and what came of it.

    A sweep is one line: how many of its cells are finished, and their figures from the least to the most.
    --cells lists the cells too; with --tag, those are found that have the tag.

    A run is killed if it says that it runs, and no process owns it; fedlab resume goes on with it, and with
    interrupted ones. Damaged directories, and those of a newer fedlab, are listed with the reason.

    fedlab runs list --status finished --tag baseline
    """
    from fedlab.cli.run_tables import listed
    from fedlab.registry import Status, find

    for one in status or []:
        if one not in list(Status):
            raise UsageError(f"--status {one}; expected one of {', '.join(Status)}")
    entries = [
        one
        for one in find(folder, cells=cells or bool(tags))
        if (not status or one.status in status) and set(tags or []) <= set(one.marks.tags)
    ]
    if json:
        as_json([one.to_dict() for one in entries])
        return
    if not entries:
        which = " that fit" if status or tags else ""
        stderr().print(f"no runs{which} below {folder}; fedlab run quickstart makes one", markup=False)
        return
    listed(entries, stdout())


def show(run: RUN, folder: DIR = FOLDER, json: JSON = False) -> None:
    """Show a run or a sweep on a screen: how it stands, its claim, its figures, and what to do next."""
    from fedlab.cli.run_tables import shown

    entry = _entry(run, folder)
    if json:
        as_json(entry.to_dict())
    else:
        shown(entry, stdout())


def rm(
    runs: RUNS,
    folder: DIR = FOLDER,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs, with everything in their directories; a sweep with its cells. What is at work stays.

    Nothing is removed unless all of them can be. Links are not followed, and only directories of runs go.
    """
    from fedlab.cli.run_tables import bytes_
    from fedlab.registry import locate, look, removable, remove

    paths = list(dict.fromkeys(locate(one, folder) for one in runs))
    paths = [one for one in paths if not any(other in one.parents for other in paths)]  # cells of a sweep
    for path in paths:
        removable(path)
    if not yes:
        if not asks():
            raise UsageError("there is no terminal to ask on; give --yes to remove without being asked")
        for path in paths:
            entry = look(path)
            cells = f", {entry.planned} cells" if entry.sweep and entry.planned else ""
            said = f"{path}  {'sweep, ' if entry.sweep else ''}{entry.status}{cells}, {bytes_(entry.size)}"
            stderr().print(f"{said}  {' '.join(entry.marks.tags)}".rstrip(), markup=False, soft_wrap=True)
        what = "it" if len(paths) == 1 else f"these {len(paths)}"
        typer.confirm(f"Remove {what} for good?", abort=True, err=True)
    for path in paths:
        remove(path)
        plain(f"removed {path}")


def asks() -> bool:
    """Whether somebody sits there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def tag(
    run: RUN,
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG...", show_default=False)] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="TAG", help="Take this tag away.", show_default=False),
    ] = None,
    folder: DIR = FOLDER,
) -> None:
    """Tag a run or a sweep, to find it again with `fedlab runs list --tag`. Prints the tags that it has.

    Tags and notes lie in the run's directory, in notes.json, and change nothing of the run or its report.

    fedlab runs tag quickstart-1 baseline paper
    """
    from fedlab.registry import read_marks, write_marks

    path = _marked(run, folder)
    marks = read_marks(path)
    if tags or remove:
        marks = marks.tagged(tags or [], remove or [])
        write_marks(path, marks)
    plain(" ".join(marks.tags))


def note(
    run: RUN,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", show_default=False)] = None,
    folder: DIR = FOLDER,
) -> None:
    """Write a note on a run or a sweep; "" removes it. Without TEXT, print it.

    fedlab runs note quickstart-1 "the learning rate was too high"
    """
    from fedlab.registry import read_marks, write_marks

    path = _marked(run, folder)
    marks = read_marks(path)
    if text is not None:
        marks = marks.noted(text)
        write_marks(path, marks)
    plain(marks.note)


def export(
    run: RUN,
    to: Annotated[Literal["tensorboard", "mlflow"], typer.Option("--to", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to; a directory of its own beside the run unless given. One that holds other exports"
            " of the kind takes this one too.",
            show_default=False,
        ),
    ] = None,
    folder: DIR = FOLDER,
) -> None:
    """Hand settings, curves and figures of a run to TensorBoard or MLflow, as local files.

    Needs pip install "fedlab-audit\\[tensorboard]" or "fedlab-audit\\[mlflow]". Nothing is sent anywhere.

    fedlab runs export quickstart-1 --to tensorboard --out board
    """
    from fedlab.registry.exporting import export as exported
    from fedlab.registry.swept import NAME as SWEEP

    path = _marked(run, folder)
    if (path / SWEEP).is_file():
        raise UsageError(f"{path} is a sweep; expected a run: export its cells, as {run}/cells/NAME")
    for line in exported(path, to, out):
        plain(line)


def _entry(run: str, folder: Path) -> Entry:
    from fedlab.registry import locate, look

    path = locate(run, folder)
    return look(path, run)


def _marked(run: str, folder: Path) -> Path:
    """A run or a sweep that may be written beside.

    Raises:
        UsageError, DataError: it is neither.
    """
    from fedlab.registry import locate
    from fedlab.registry.entry import known as known_run

    path = locate(run, folder)
    known_run(path)
    return path
