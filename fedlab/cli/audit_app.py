"""`fedlab audit-app`: what does a Flower app leak?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedlab.cli.gates import judge
from fedlab.cli.output import stderr
from fedlab.cli.run import JSON, QUIET, show


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit-app")(audit_app)


def audit_app(
    path: Annotated[Path, typer.Argument(metavar="APP", show_default=False)],
    run_config: Annotated[
        str,
        typer.Option(
            "--run-config",
            metavar="'a=1 b=\"x\"'",
            help="Changes to the app's run config, as flwr run takes them.",
            show_default=False,
        ),
    ] = "",
    supernodes: Annotated[
        int | None,
        typer.Option(
            "--num-supernodes",
            metavar="N",
            help="Clients; as many as the app's pyproject.toml says unless given, or 10.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="R", help="Rounds instead of the app's own.", show_default=False),
    ] = None,
    observe: Annotated[
        str, typer.Option("--observe", metavar="1,2", help="Rounds whose updates are attacked.")
    ] = "1",
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME[:KEY=VALUE,...]",
            help="Attack and its parameters; cascade, inverting-gradients and label-recovery unless given."
            " Repeatable.",
            show_default=False,
        ),
    ] = None,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="NAME[:KEY=VALUE,...]",
            help="Defense to run the app under as well, without a change of its code: dp-sgd,dropout,no-bias."
            " Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="New or empty run directory; runs/NAME-N unless given."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of every random draw.")] = 0,
    include_samples: Annotated[
        bool,
        typer.Option("--include-samples", help="Keep records and reconstructions as images, and show them."),
    ] = False,
    json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Run a Flower app, unmodified, and audit what its server sees.

    APP is the folder with the app's pyproject.toml. It runs in a process of its own, without Flower's engine:

    fedlab audit-app examples/pytorch-cnn --rounds 1

    fedlab audit-app . --run-config 'batch-size=1 local-epochs=1' --num-supernodes 4
    """
    from fedlab.apps import folder
    from fedlab.apps.apart import audit_apart
    from fedlab.terminal import watch

    if not quiet:
        stderr().print(f"reading {path}", markup=False, soft_wrap=True)
    asked = {
        "path": str(path.expanduser().absolute()),
        "run_config": run_config,
        "supernodes": supernodes,
        "rounds": rounds,
        "observe": _rounds(observe),
        "attacks": attacks or [],
        "tries": tries or [],
        "out": None if out is None else str(out.absolute()),
        "seed": seed,
        "include_samples": include_samples,
        "command": _command(path, run_config, supernodes, rounds, observe, attacks or [], tries or [], seed),
    }
    folder.read(path).configured(folder.overrides(run_config))  # mistakes show before a process starts
    with watch(quiet=quiet) as progress:
        directory = audit_apart(asked, progress)
    from fedlab.report import AuditReport

    audit = AuditReport.load(directory)
    show(audit, json=json)
    _check_tried(directory)
    judge(audit.data)


def _check_tried(directory: Path) -> None:
    """Whether any of the defenses could be tried, if there were some.

    Raises:
        AppFailed: none; the report says why of each.
    """
    import json

    from fedlab.errors import AppFailed

    tried = json.loads((directory / "app.json").read_bytes()).get("tried", [])
    if tried and all(one["status"] == "failed" for one in tried):
        told = "\n".join(f"  {one['label']}: {one['why']}" for one in tried)
        raise AppFailed(f"nothing of what was to be tried could be; the app as it is was audited\n{told}")


def _rounds(text: str) -> list[int]:
    """`1,2` as numbers.

    Raises:
        UsageError: it is none.
    """
    from fedlab.errors import UsageError

    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise UsageError(f"--observe {text}; expected rounds, as in 1,2") from None


def _command(
    path: Path,
    run_config: str,
    supernodes: int | None,
    rounds: int | None,
    observe: str,
    attacks: list[str],
    tries: list[str],
    seed: int,
) -> str:
    """The command that gives the same result."""
    options = [
        ("--run-config", run_config),
        ("--num-supernodes", supernodes),
        ("--rounds", rounds),
        ("--observe", "" if observe == "1" else observe),
        *(("--attack", one) for one in attacks),
        *(("--try", one) for one in tries),
        ("--seed", seed or ""),
    ]
    words = [str(word) for option in options if option[1] not in ("", None) for word in option]
    return shlex.join(["fedlab", "audit-app", str(path), *words])
