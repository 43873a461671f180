"""`fedlab run`, `fedlab resume` and `fedlab report`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlab.cli import completion
from fedlab.cli.claims import claims
from fedlab.cli.forecasts import tell
from fedlab.cli.formats import FORMAT, OUT, TABLE, document
from fedlab.cli.gates import FAIL_ON, judge, verdicts
from fedlab.cli.output import as_json, plain, stderr, stdout
from fedlab.cli.scenarios import SCENARIO, SET
from fedlab.cli.tables import makespan, membership, pace, summary
from fedlab.cli.tried import tried
from fedlab.errors import BudgetExhausted, UsageError

if TYPE_CHECKING:
    from fedlab.report import AuditReport

RUN = Annotated[Path, typer.Argument(metavar="RUN", autocompletion=completion.runs, show_default=False)]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(resume)
    app.command()(report)


def run(
    scenario: SCENARIO,
    overrides: SET = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="New or empty run directory; runs/NAME-N unless given."),
    ] = None,
    fail_on: FAIL_ON = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would take: messages, memory, disk, time, ε."),
    ] = False,
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Train, attack, score and report; prints the report's path last.

    SCENARIO is a TOML file, or the name of a shipped scenario such as quickstart:

    fedlab run quickstart --set strategy.rounds=50
    """
    if not quiet:  # what follows takes seconds to load
        stderr().print(f"reading {scenario}", markup=False, soft_wrap=True)
    from fedlab.scenario import load
    from fedlab.scenario.loading import with_gates
    from fedlab.terminal import watch

    settings = load(scenario, overrides or [])
    if fail_on:
        settings = with_gates(settings, fail_on)
    if dry_run:
        tell(settings, json=json)
        return
    from fedlab.experiment import run as run_scenario

    # What any library prints belongs to the progress, not to the results.
    with _shown(json=json), contextlib.redirect_stdout(sys.stderr), watch(quiet=quiet) as progress:
        audit = run_scenario(
            settings, out=out, progress=progress, command=_command(scenario, overrides or [], fail_on or [])
        )
    show(audit, json=json)
    judge(audit.data)


def resume(
    directory: RUN,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change what does not change the result, such as runtime.executor=inline. Repeatable.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with other versions of the software: bits may differ.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Of a sweep: cells at a time, at most."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Of a sweep: stop at the first cell that fails.")
    ] = False,
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Go on with a run or a sweep that was interrupted, failed or killed, to the same bits.

    RUN is its directory, which the message of the interruption names. A finished run is left as it is. Of an
    audit of an app, the app runs again from its start; attacks that are done are not done again.
    """
    if (directory / "sweep.json").is_file():
        from fedlab.cli import sweep

        sweep.go_on(
            directory,
            overrides or [],
            force=force,
            workers=workers,
            fail_fast=fail_fast,
            json=json,
            quiet=quiet,
        )
        return
    if workers is not None or fail_fast:
        raise UsageError(
            f"{directory} is no sweep; expected neither --workers nor --fail-fast: they are about its cells."
            " How many workers a run has: --set runtime.workers=2"
        )
    if _is_finished(directory):
        from fedlab.report import AuditReport

        if not quiet:
            stderr().print(f"{directory} is finished; nothing is left to do", markup=False, soft_wrap=True)
        audit = AuditReport.load(directory)
        show(audit, json=json)
        judge(audit.data)
        return
    if not quiet:
        stderr().print(f"opening {directory}", markup=False, soft_wrap=True)
    from fedlab.apps.apart import is_app
    from fedlab.terminal import watch

    if is_app(directory):
        audit = _app(directory, overrides or [], force=force, quiet=quiet)
        show(audit, json=json)
        judge(audit.data)
        return
    from fedlab.experiment import resume as resume_run

    with _shown(json=json), contextlib.redirect_stdout(sys.stderr), watch(quiet=quiet) as progress:
        audit = resume_run(directory, overrides=overrides or [], force=force, progress=progress)
    show(audit, json=json)
    judge(audit.data)


def _app(directory: Path, overrides: list[str], *, force: bool, quiet: bool) -> AuditReport:
    """Go on with an audit of an app, which runs again.

    Raises:
        UsageError: there is nothing to override.
    """
    from fedlab.apps.apart import expect_no_overrides, resume_apart
    from fedlab.terminal import watch

    expect_no_overrides(directory, overrides)
    with watch(quiet=quiet) as progress:
        path = resume_apart(directory, force=force, progress=progress)
    from fedlab.report import AuditReport

    return AuditReport.load(path)


@contextlib.contextmanager
def _shown(*, json: bool) -> Iterator[None]:
    """Show the report of a run that stopped for want of privacy budget, before the error is told."""
    try:
        yield
    except BudgetExhausted as stop:
        from fedlab.report import AuditReport

        if isinstance(stop.report, AuditReport):
            show(stop.report, json=json)
        raise


def _is_finished(path: Path) -> bool:
    """Whether a run has ended, before torch, Flower and Ray are loaded to go on with it.

    Raises:
        UsageError, DataError: no run, or another process works on it.
    """
    from fedlab.experiment.directory import RunDirectory

    directory = RunDirectory.open(path)
    if directory.manifest.get("status") == "finished":
        return True
    with directory.locked():
        return False


def report(
    directory: RUN,
    form: FORMAT = "html",
    out: OUT = None,
    table: TABLE = None,
    fail_on: FAIL_ON = None,
    json: JSON = False,
) -> None:
    """Build the report of a run directory again, without training; a gate that fails is exit code 4.

    RUN is the directory that `fedlab run` prints when it ends.

    fedlab report runs/quickstart-1 --fail-on "attack.*.psnr_median > 20"

    fedlab report runs/quickstart-1 --format csv --table utility --out utility.csv
    """
    written = document(form, table, out, json=json)  # what cannot be asked for fails before anything is built
    if (directory / "sweep.json").is_file():
        from fedlab.cli import sweep

        if written is not None or fail_on:
            raise UsageError(
                f"{directory} is a sweep, whose report is a page and --json; expected neither --format, --out"
                f" nor --fail-on. They work on one cell, as in {directory}/cells/NAME"
            )
        sweep.rebuild(directory, json=json)
        return
    from fedlab.report import build

    audit = build(directory, fail_on=fail_on or [])
    if written is None:
        show(audit, json=json)
    else:
        written(audit)
    if status := _unfinished(audit.data):
        stderr().print(
            f"note: this run is marked {status}: parts of it are missing; {_remedy(audit.data, directory)}",
            markup=False,
            soft_wrap=True,
        )
    judge(audit.data)


def _unfinished(data: dict[str, Any]) -> str:
    """The status of a run that did not end well; nothing for one that did."""
    status = str(data.get("run", data).get("status", "finished"))
    return "" if status == "finished" else status


def _remedy(data: dict[str, Any], directory: Path) -> str:
    """What may be done about it."""
    if data.get("deployment"):
        return f"what was recorded until then can be attacked: fedlab attack {directory} --app APP"
    if _unfinished(data) == "failed":
        return f"fedlab resume {directory} would fail again, unless the cause lay outside and is gone"
    return f"fedlab resume {directory} goes on"


def _command(scenario: str, overrides: Sequence[str], fail_on: Sequence[str]) -> str:
    """The command that gives the same result: where it goes and how it is shown do not matter."""
    words = [("--set", item) for item in overrides] + [("--fail-on", item) for item in fail_on]
    return shlex.join(["fedlab", "run", scenario, *(word for pair in words for word in pair)])


def show(audit: AuditReport, *, json: bool) -> None:
    """The table of scores and where the report lies, or all of it as JSON."""
    if json:
        as_json({"directory": str(audit.directory), "html": str(audit.html), "report": audit.data})
        return
    console = stdout()
    console.print()
    if (recorded := claims(audit.data)) is not None:
        console.print(audit.data["verdict"]["headline"], markup=False, soft_wrap=True)
        console.print()
    console.print(summary(audit.data) if recorded is None else recorded)
    console.print()
    told = (tried, membership, pace, makespan, verdicts)
    for table in (one(audit.data) for one in told):
        if table is not None:
            console.print(table)
            console.print()
    plain(str(audit.directory))
    plain(str(audit.html))
