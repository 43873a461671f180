"""`fedlab sweep`, and what `fedlab resume` and `fedlab report` do with the directory of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlab.cli.output import as_json, grid, plain, stderr, stdout
from fedlab.cli.scenarios import SCENARIO, SET
from fedlab.errors import FedlabError, GateFailed

if TYPE_CHECKING:
    from fedlab.report.sweep import SweepReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sweep)


def sweep(
    scenario: SCENARIO,
    overrides: SET = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=VALUE,VALUE",
            help="An axis beside those of \\[sweep], as clients.batch_size=1,4 or seed=1,2,3. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="New or empty directory, or that of the same sweep; runs/NAME-sweep-N unless given.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Cells at a time, at most; as many as the cores hold unless given.",
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first cell that fails.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what each cell and all of them would take."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Run a scenario at every combination of settings; one report over all of them.

    SCENARIO is a TOML file, or the name of a shipped scenario. Axes multiply. The same command again with
    --out, or fedlab resume DIR, runs what is not finished:

    fedlab sweep quickstart --sweep clients.batch_size=1,4,8 --sweep seed=1,2,3
    """
    if not quiet:
        stderr().print(f"reading {scenario}", markup=False, soft_wrap=True)
    if dry_run:
        from fedlab.cli.sweep_forecasts import tell

        tell(scenario, overrides or [], axes or [], out=out, workers=workers, json=json, quiet=quiet)
        return
    from fedlab.sweeps import sweep as run_sweep
    from fedlab.sweeps.view import watch

    with watch(quiet=quiet) as view:
        report = run_sweep(
            scenario,
            overrides=overrides or [],
            axes=axes or [],
            out=out,
            workers=workers,
            fail_fast=fail_fast,
            view=view,
            command=_command(scenario, overrides or [], axes or []),
        )
    show(report, json=json)
    judge(report)


def go_on(
    directory: Path,
    overrides: Sequence[str],
    *,
    force: bool,
    workers: int | None,
    fail_fast: bool,
    json: bool,
    quiet: bool,
) -> None:
    """`fedlab resume` of a sweep."""
    if not quiet:
        stderr().print(f"opening {directory}", markup=False, soft_wrap=True)
    from fedlab.sweeps import resume
    from fedlab.sweeps.view import watch

    with watch(quiet=quiet) as view:
        report = resume(
            directory, overrides=overrides, force=force, workers=workers, fail_fast=fail_fast, view=view
        )
    show(report, json=json)
    judge(report)


def rebuild(directory: Path, *, json: bool) -> None:
    """`fedlab report` of a sweep."""
    from fedlab.report.sweep import build

    show(build(directory), json=json)


def _command(scenario: str, overrides: Sequence[str], axes: Sequence[str]) -> str:
    """The command that gives the same result."""
    words = [("--set", item) for item in overrides] + [("--sweep", item) for item in axes]
    return shlex.join(["fedlab", "sweep", scenario, *(word for pair in words for word in pair)])


def show(report: SweepReport, *, json: bool) -> None:
    """The table of cells and where the report lies, or all of it as JSON."""
    if json:
        as_json({"directory": str(report.directory), "html": str(report.html), "report": report.data})
        return
    console = stdout()
    console.print()
    console.print(table(report.data))
    console.print()
    plain(str(report.directory))
    plain(str(report.html))


def table(data: dict[str, Any]) -> Any:
    """One row per cell, and per strategy, defense and client mode where there are several."""
    from rich.text import Text

    from fedlab.report.reading import DASH, decibel, epsilon, percent
    from fedlab.report.sweep_words import called, in_words

    rows = [row for cell in data["cells"] for row in cell["rows"]]
    trained = ["trained"] if len({called(row, rows) for row in rows}) > 1 else []
    numbers = ["accuracy", "recovered", "PSNR", "null", "ε"]
    found = grid("cell", *(axis["name"] for axis in data["axes"]), *trained, "attack", *numbers)
    for column in found.columns:
        column.justify = "right" if column.header in numbers else "left"
    for cell in data["cells"]:
        first = [cell["name"], *(in_words(cell["settings"][axis["key"]]) for axis in data["axes"])]
        for row in cell["rows"] or [None]:
            if row is None:
                cells = [*first, *("" for _ in trained), cell["status"], *("" for _ in numbers)]
            else:
                cells = [
                    *first,
                    *(called(row, rows) for _ in trained),
                    str(row["attack"] or data["levels"][row["level"]]["word"]),
                    percent(row["accuracy"], 1),
                    f"{row['recovered']}/{row['images']}" if row["images"] else DASH,
                    decibel(row["psnr_median"]),
                    decibel(row["control"]),
                    "none" if row["epsilon"] is None else epsilon(row["epsilon"]),
                ]
            found.add_row(*map(Text, cells))
            first = [""] * len(first)
    return found


def judge(report: SweepReport) -> None:
    """Whether every cell is finished, and every gate of every cell holds.

    Raises:
        FedlabError: a cell failed.
        GateFailed: a gate does not hold.
    """
    failed = report.cells("failed")
    if failed:
        lines = "".join(f"\n  {cell['name']}: {str(cell['error']).partition(chr(10))[0]}" for cell in failed)
        raise FedlabError(
            f"{len(failed)} of {len(report.data['cells'])} cells failed:{lines}\n"
            f"What they said is in {report.directory / 'logs'};"
            f" fedlab resume {report.directory} tries them again"
        )
    gates = [(cell["name"], gate) for cell in report.cells("finished") for gate in cell["gates_failed"]]
    if gates:
        raise GateFailed(
            f"{len(gates)} gates failed:" + "".join(f"\n  {name}: {expression}" for name, expression in gates)
        )
