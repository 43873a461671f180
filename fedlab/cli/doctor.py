"""`fedlab doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedlab.cli.output import as_json, stdout
from fedlab.errors import BackendError

_SIGNS = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "bold red")}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine. Exits 6 if something is broken."""
    from rich.text import Text

    from fedlab.doctor import examine

    console = stdout()
    findings = []
    for finding in examine():
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
