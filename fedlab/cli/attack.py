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
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Attack what a finished run observed again, without training; adds to its report.

    RUN is the directory that `fedlab run` prints when it ends, or `fedlab audit-app`, whose app runs again.
    What was done before is not done again:

    fedlab attack runs/quickstart-1 --attack dropout-inversion:iterations=500 --threat oracle

    fedlab attack runs/quickstart-1 --threat labels=true,batch_size=false --threat each
    """
    if not quiet:
        stderr().print(f"opening {directory}", markup=False, soft_wrap=True)
    from fedlab.apps.apart import is_app

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
    from fedlab.apps.apart import attack_apart
    from fedlab.terminal import watch

    if overrides:
        raise UsageError(
            f"--set {overrides[0]}: {directory} is an audit of an app, which runs as it did; expected none"
        )
    with watch(quiet=quiet) as progress:
        path = attack_apart(directory, {"attacks": [*attacks], "threats": [*threats]}, progress)
    from fedlab.report import AuditReport

    return AuditReport.load(path)
