"""`fedlab tap`: what does the server of a running deployment see?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedlab.cli.output import stderr
from fedlab.cli.run import JSON, QUIET, show
from fedlab.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tap)


def tap(
    superlink: Annotated[
        str,
        typer.Option(
            "--superlink", metavar="HOST:PORT", help="Where flower-superlink listens.", show_default=False
        ),
    ],
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without TLS, as the SuperLink was started.")
    ] = False,
    certificates: Annotated[
        Path | None,
        typer.Option(
            "--root-certificates",
            metavar="FILE",
            help="Authorities that may have signed the SuperLink's certificate; the system's unless given.",
        ),
    ] = None,
    secret: Annotated[
        Path | None,
        typer.Option(
            "--superexec-auth-secret-file",
            metavar="FILE",
            help="The secret that the SuperLink asks executors for, if it does.",
        ),
    ] = None,
    observe: Annotated[
        str, typer.Option("--observe", metavar="1,2", help="Rounds whose updates are recorded.")
    ] = "1",
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", help="End after so many runs, a directory each.", min=1)
    ] = 1,
    patience: Annotated[
        float,
        typer.Option(
            "--patience", metavar="SECONDS", help="How long the SuperLink may be gone in the middle of a run."
        ),
    ] = 120.0,
    app: Annotated[
        Path | None,
        typer.Option("--app", metavar="APP", help="The app's folder: attack what was recorded, afterwards."),
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME[:KEY=VALUE,...]",
            help="Attack and its parameters; cascade, inverting-gradients and label-recovery unless given."
            " Repeatable; needs --app.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="New or empty run directory; runs/tap-N unless given."),
    ] = None,
    include_samples: Annotated[
        bool,
        typer.Option("--include-samples", help="Keep reconstructions as images, and show them; needs --app."),
    ] = False,
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Record what the server of a running Flower deployment sees, for a later attack.

    Takes the place of Flower's executor: start the SuperLink with --isolation process, and this instead of
    flower-superexec. The next flwr run is executed here, as Flower would, and nothing of it is changed:

    fedlab tap --superlink 127.0.0.1:8000 --insecure --observe 1,2

    fedlab attack runs/tap-1 --app ./my-app
    """
    from fedlab.cli.audit_app import _rounds
    from fedlab.terminal import watch

    rounds = _rounds(observe)
    if app is None and (attacks or include_samples):
        option = f"--attack {attacks[0]}" if attacks else "--include-samples"
        raise UsageError(
            f"{option} without --app; expected the app's folder with it, which says what the network is. Or"
            " record now, and attack later: fedlab attack RUN --app APP"
        )
    if out is not None and runs > 1:
        raise UsageError(f"--out {out} with --runs {runs}; expected one run for one directory")
    if not quiet:
        stderr().print(f"asking {superlink}", markup=False, soft_wrap=True)
    from fedlab.apps.tap import tap as record
    from fedlab.apps.tap.link import Address

    if app is not None:
        from fedlab.apps import folder

        folder.read(app)  # mistakes show before a run is taken
    address = Address(superlink, insecure=insecure, certificates=certificates, secret=secret)
    command = _command(superlink, insecure=insecure, observe=observe)
    for _ in range(runs):
        with watch(quiet=quiet) as progress:
            audit = record(
                address, observe=rounds, out=out, patience=patience, progress=progress, command=command
            )
        if app is not None:
            from fedlab.apps.apart import recording_apart
            from fedlab.report import AuditReport

            asked = {"attacks": attacks or [], "include_samples": include_samples}
            with watch(quiet=quiet) as progress:
                audit = AuditReport.load(recording_apart(audit.directory, app, asked, progress))
        show(audit, json=json)


def _command(superlink: str, *, insecure: bool, observe: str) -> str:
    words = ["fedlab", "tap", "--superlink", superlink, *(["--insecure"] if insecure else [])]
    return shlex.join([*words, *(["--observe", observe] if observe != "1" else [])])
