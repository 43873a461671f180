"""All commands, and what becomes of their errors. Commands import what they need when they run.

Results go to stdout, everything else to stderr. The exit code is that of the error (see
`fedlab.errors`): 0 ok, 1 failed, 2 usage, 3 data missing, 4 gate failed, 5 interrupted,
6 environment, 7 budget exhausted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import click
import typer
from typer import rich_utils

from fedlab import __version__
from fedlab.cli import (
    attack,
    audit_app,
    compare,
    data,
    doctor,
    explain,
    init,
    inspect,
    new,
    plugins,
    run,
    runs,
    scenarios,
    sweep,
    tap,
)
from fedlab.cli.output import show_error
from fedlab.errors import BackendError, FedlabError, Interrupted
from fedlab.plugins import interrupted

app = typer.Typer(
    name="fedlab",
    help="What does your federated learning leak, what does a defense cost, and can you prove it?",
    epilog="Start with: fedlab run quickstart",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click suggests them already
)
for group in (
    run,
    sweep,
    attack,
    audit_app,
    tap,
    compare,
    runs,
    scenarios,
    plugins,
    inspect,
    new,
    data,
    doctor,
    explain,
    init,
):
    group.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedlab-audit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set FEDLAB_DEBUG=1).")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def execute(
    arguments: Sequence[str], *, debug: bool = False, stopped: Callable[[], bool] = lambda: False
) -> int:
    """The exit code of a command; every error becomes one screen on stderr.

    `stopped` tells whether Ctrl-C was pressed: an error after that is no error.

    Raises:
        KeyboardInterrupt: the command was stopped, whatever that made of it.
    """
    command = typer.main.get_command(app)
    if "_FEDLAB_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(list(arguments), prog_name="fedlab")
    try:
        try:
            # Not `command.main`, which gives an interrupt and a closed pipe exit codes of its own.
            with command.make_context("fedlab", list(arguments)) as context:
                command.invoke(context)
            code = 0
        except click.exceptions.Exit as exit:
            code = exit.exit_code
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        rich_utils.rich_format_error(error)
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:  # `fedlab list attacks | head -1` is no mistake
        _discard_output()
        return 0
    except SystemExit as exit:  # a plugin's: it must not pass for success
        if isinstance(exit.__context__, BrokenPipeError):  # of `fedlab --help | head -1`, by rich
            _discard_output()
            return 0
        show_error(FedlabError(f"a plugin ended the program (sys.exit({exit.code!r}))"), debug=debug)
        return FedlabError.exit_code
    except Exception as error:
        if (stopped() or interrupted(error)) and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from error
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and not _can_flush():
            _discard_output()
            error = BackendError(f"the output cannot be written: {error.strerror}; send it elsewhere")
        show_error(error, debug=debug)
        return error.exit_code if isinstance(error, FedlabError) else FedlabError.exit_code


def _can_flush() -> bool:
    """Whether stdout takes what it still holds; a full disk has refused it, and will again."""
    try:
        print(end="", flush=True)  # `flush` alone passes over text that could not be handed on before
    except OSError:
        return False
    return True


def _discard_output() -> None:
    """What stdout still holds would otherwise fail once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
