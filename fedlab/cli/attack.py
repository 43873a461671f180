"""`fedlab attack`: attack a finished run's observations again."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from fedlab.cli import completion
from fedlab.cli.gates import judge
from fedlab.cli.output import stderr
from fedlab.cli.run import JSON, QUIET, RUN, show


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

    RUN is the directory that `fedlab run` prints when it ends. What was done before is not done again:

    fedlab attack runs/quickstart-1 --attack dropout-inversion:iterations=500 --threat oracle

    fedlab attack runs/quickstart-1 --threat labels=true,batch_size=false --threat each
    """
    if not quiet:
        stderr().print(f"opening {directory}", markup=False, soft_wrap=True)
    from fedlab.experiment import attack as attack_again
    from fedlab.terminal import watch

    with contextlib.redirect_stdout(sys.stderr), watch(quiet=quiet) as progress:
        audit = attack_again(
            directory,
            attacks=attacks or (),
            threats=threats or (),
            overrides=overrides or (),
            progress=progress,
        )
    show(audit, json=json)
    judge(audit.data)
