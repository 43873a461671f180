"""The command line: thin, and quick to answer. Commands import what they need when they run.

Results go to stdout, everything else to stderr. The exit code is that of the error (see
`fedlab.errors`): 0 ok, 1 failed, 2 usage, 3 data missing, 4 gate failed, 5 interrupted,
6 environment, 7 budget exhausted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import click
import typer
from typer import rich_utils

from fedlab import __version__
from fedlab.cli import data, doctor, plugins, run, scenarios
from fedlab.cli.output import show_error, stderr
from fedlab.errors import FedlabError, Interrupted

app = typer.Typer(
    name="fedlab",
    help="What does your federated learning leak, what does a defense cost, and can you prove it?",
    epilog="Start with: fedlab run quickstart",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click suggests them already
)
for group in (run, scenarios, plugins, data, doctor):
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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("FEDLAB_DEBUG", "0") not in ("", "0")
    sys.exit(execute([item for item in given if item != "--debug"], debug=debug))


def execute(arguments: Sequence[str], *, debug: bool = False) -> int:
    """The exit code of a command; every error becomes one screen on stderr."""
    command = typer.main.get_command(app)
    try:
        if "_FEDLAB_COMPLETE" in os.environ:  # the shell asks for completions
            command.main(list(arguments), prog_name="fedlab")
        # Not `command.main`, which gives an interrupt and a closed pipe exit codes of its own.
        with command.make_context("fedlab", list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.ClickException as error:
        rich_utils.rich_format_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        stderr().print("stopped")
        return Interrupted.exit_code
    except BrokenPipeError:  # `fedlab list attacks | head -1` is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        show_error(error, debug=debug)
        return error.exit_code if isinstance(error, FedlabError) else FedlabError.exit_code
