"""`fedlab attack`: attack a finished run's observations again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlab.cli import completion
from fedlab.cli.gates import judge
from fedlab.cli.output import stderr
from fedlab.cli.run import JSON, QUIET, RUN, show
from fedlab.errors import UsageError

if TYPE_CHECKING:
    from fedlab.report import AuditReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(attack)


def attack(
    directory: RUN,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME[:KEY=VALUE,...]",
            autocompletion=completion.attack_specs,
            help="Attack and its parameters; cascade unless given. Repeatable.",
            show_default=False,
        ),
    ] = None,
    threats: Annotated[
        list[str] | None,
        typer.Option(
            "--threat",
            metavar="LEVEL|KEY=VALUE[,...]",
            autocompletion=completion.levels,
            help="What else the attacker is assumed to know: weights, protocol, proxy, labels, oracle; keys"
            " of [threat]; or each, which gives or takes away every piece of knowledge in turn. Repeatable.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change what does not change the result, such as runtime.executor=inline. Repeatable.",
            show_default=False,
        ),
    ] = None,
    app: Annotated[
        Path | None,
        typer.Option(
            "--app",
            metavar="APP",
            help="Of what `fedlab tap` recorded: the folder of the app that was deployed.",
            show_default=False,
        ),
    ] = None,
    include_samples: Annotated[
        bool,
        typer.Option("--include-samples", help="With --app: keep reconstructions as images, and show them."),
    ] = False,
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Attack what a finished run observed again, without training; adds to its report.

    RUN is the directory that `fedlab run` prints when it ends, or `fedlab audit-app`, whose app runs again,
    or `fedlab tap`. What was done before is not done again:

    fedlab attack runs/quickstart-1 --attack dropout-inversion:iterations=500 --threat oracle

    fedlab attack runs/quickstart-1 --threat labels=true,batch_size=false --threat each

    fedlab attack runs/tap-1 --app ./my-app
    """
    if not quiet:
        stderr().print(f"opening {directory}", markup=False, soft_wrap=True)
    from fedlab.apps.apart import is_app
    from fedlab.apps.tap import NAME

    if (directory / NAME).is_file():
        beside = [f"--threat {threats[0]}"] if threats else [f"--set {overrides[0]}"] if overrides else []
        audit = _recording(directory, app, attacks or (), beside, samples=include_samples, quiet=quiet)
    elif app is not None or include_samples:
        raise UsageError(
            f"{directory} is no recording of a deployment; expected neither --app nor --include-samples"
        )
    else:
        attacked = _app if is_app(directory) else _run
        audit = attacked(directory, attacks or (), threats or (), overrides or (), quiet=quiet)
    show(audit, json=json)
    judge(audit.data)


def _run(
    directory: Path, attacks: Sequence[str], threats: Sequence[str], overrides: Sequence[str], *, quiet: bool
) -> AuditReport:
    """A run of a scenario: its records are found by its seed."""
    from fedlab.experiment import attack as attack_again
    from fedlab.terminal import watch

    with contextlib.redirect_stdout(sys.stderr), watch(quiet=quiet) as progress:
        return attack_again(
            directory, attacks=attacks, threats=threats, overrides=overrides, progress=progress
        )


def _app(
    directory: Path, attacks: Sequence[str], threats: Sequence[str], overrides: Sequence[str], *, quiet: bool
) -> AuditReport:
    """An audit of an app, which runs again.

    Raises:
        UsageError: there is nothing to override.
    """
    from fedlab.apps.apart import attack_apart, expect_no_overrides
    from fedlab.terminal import watch

    expect_no_overrides(directory, overrides)
    with watch(quiet=quiet) as progress:
        path = attack_apart(directory, {"attacks": [*attacks], "threats": [*threats]}, progress)
    from fedlab.report import AuditReport

    return AuditReport.load(path)


def _recording(
    directory: Path,
    app: Path | None,
    attacks: Sequence[str],
    beside: Sequence[str],
    *,
    samples: bool,
    quiet: bool,
) -> AuditReport:
    """What `fedlab tap` recorded: without truth, and with what the app's code says.

    Raises:
        UsageError: no app is given, or what a recording has not.
    """
    from fedlab.apps import folder
    from fedlab.apps.apart import recording_apart
    from fedlab.report import AuditReport
    from fedlab.terminal import watch

    if beside:
        raise UsageError(
            f"{beside[0]}: {directory} was recorded on a deployment; expected neither --threat nor --set."
            " What its attackers know is what the app's folder says"
        )
    if app is None:
        raise UsageError(
            f"{directory} was recorded on a deployment; expected the folder of its app, which says what the"
            f" network is: fedlab attack {directory} --app APP"
        )
    folder.read(app)  # mistakes show before a process starts
    with watch(quiet=quiet) as progress:
        asked = {"attacks": [*attacks], "include_samples": samples}
        return AuditReport.load(recording_apart(directory, app, asked, progress))
