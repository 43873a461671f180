"""`fedlab validate` and `fedlab schema`."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from fedlab.cli import completion
from fedlab.cli.output import as_json, plain
from fedlab.errors import ScenarioError

SCENARIO = Annotated[
    str,
    typer.Argument(metavar="SCENARIO", autocompletion=completion.scenarios, show_default=False),
]
# typer 0.20 loses the help of an argument under click 8.5, so the docstrings explain them.
SET = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, such as strategy.rounds=50 or task.model.width=64. Repeatable.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)
    app.command()(schema)


def validate(
    scenario: SCENARIO,
    overrides: SET = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print it with every default filled in.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the mistakes as JSON, for editors.")] = False,
) -> None:
    """Name every mistake of a scenario at once; runs nothing.

    SCENARIO is a TOML file, or the name of a shipped scenario such as quickstart.
    """
    from fedlab.scenario import load, resolved_toml
    from fedlab.scenario.points import points

    try:
        found = load(scenario, overrides or [])
        if found.privacy.budget is not None:  # what a round costs depends on the records of each client
            from fedlab.experiment.budget import check
            from fedlab.experiment.setup import set_up

            check(set_up(found))
    except ScenarioError as error:
        if not json:
            raise
        mistakes = [{"place": problem.place, "message": problem.message} for problem in error.problems]
        as_json({"scenario": scenario, "valid": False, "problems": mistakes})
        raise typer.Exit(error.exit_code) from None
    if json:
        as_json({"scenario": scenario, "valid": True, "problems": []})
    elif resolved:
        plain(resolved_toml(found).rstrip())
    else:
        cells = len(found.labels) * len(found.defenses) * len(found.clients.modes) * len(found.seeds)
        rounds = sorted({found.under(label).strategy.rounds for label in found.labels})
        most = f"up to {rounds[-1]} rounds" if len(rounds) > 1 else _count(rounds[0], "round")
        kinds = f"{_strategies(len(found.strategies))} x " if found.strategies else ""
        plain(
            f"{scenario}: valid. {_count(found.clients.count, 'client')},"
            f" {most}, {kinds}{_count(len(found.defenses), 'defense')} x"
            f" {_count(len(found.clients.modes), 'client mode')} x {_count(len(found.seeds), 'seed')} ="
            f" {_count(cells, 'model')} to train, {_count(len(found.attacks), 'attack')} on each"
            + (f", at each of {_count(len(points(found)), 'point')} of the map." if found.map else ".")
            + (f" That in each of {_count(_size(found.sweep), 'cell')} of [sweep]." if found.sweep else "")
        )


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference of every key instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of a scenario, for editors."""
    from fedlab.scenario.reference import json_schema
    from fedlab.scenario.reference import markdown as reference

    if markdown:
        plain(reference().rstrip())
    else:
        as_json(json_schema())


def _strategies(number: int) -> str:
    return "1 strategy" if number == 1 else f"{number} strategies"


def _size(axes: dict[str, tuple[Any, ...]]) -> int:
    return math.prod(map(len, axes.values()))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
