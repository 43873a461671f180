"""`fedlab doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from fedlab.cli import completion
from fedlab.cli.output import as_json, stdout
from fedlab.cli.scenarios import SET
from fedlab.errors import BackendError, UsageError

if TYPE_CHECKING:
    from fedlab.doctor import Finding
    from fedlab.scenario import Scenario

_SIGNS = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "bold red")}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="[SCENARIO]", autocompletion=completion.scenarios, show_default=False),
    ] = None,
    overrides: SET = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, and the Ray cluster at RAY_ADDRESS. Exits 6 if something is broken.

    With SCENARIO, a TOML file or the name of a shipped one, also say which workers it would get, on which
    machines and GPUs, or why it would not start:

    fedlab doctor quickstart --set runtime.num_gpus=0.25
    """
    from rich.text import Text

    if overrides and scenario is None:
        raise UsageError("--set changes a scenario, and none is given; expected fedlab doctor SCENARIO --set")
    planned = None
    if scenario is not None:
        from fedlab.scenario import load

        planned = load(scenario, overrides or [])
    console = stdout()
    findings = []
    for finding in _findings(planned):
        findings.append(finding)
        if not json:
            sign, style = _SIGNS[finding.status]
            line = Text.assemble((sign, style), f"  {finding.topic:<24} ", finding.value)
            console.print(line, soft_wrap=True)
            if finding.advice:
                console.print(Text(f"{'':31}-> {finding.advice}"), soft_wrap=True)
    if json:
        as_json([finding.to_dict() for finding in findings])
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(BackendError.exit_code)


def _findings(scenario: Scenario | None) -> Iterator[Finding]:
    from fedlab.doctor import examine

    broken = set()
    for finding in examine():
        broken |= {finding.topic} if finding.status == "fail" else set()
        yield finding
    if not broken & {"ray", "torch", "flwr", "psutil"}:  # what placement is asked of
        from fedlab.machines import machines

        yield from machines(scenario)
