"""`fedlab run --dry-run`: what a run is going to take, a line each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedlab.cli.output import as_json, grid, stderr, stdout
from fedlab.terminal import duration

if TYPE_CHECKING:
    from fedlab.experiment.forecast import Forecast
    from fedlab.experiment.spending import Spending
    from fedlab.scenario import Scenario

MOST_NAMED = 6
"""Models that are called by their names."""

ROUGH = "a trial of one step and of each attack; right within a factor of three"


def tell(scenario: Scenario, *, json: bool) -> None:
    """Print the forecast of a scenario; nothing is trained, nothing is written.

    Raises:
        FedlabError: what the run would be refused for at its start.
    """
    from fedlab.experiment.forecast import forecast

    with contextlib.redirect_stdout(sys.stderr):
        found = forecast(scenario)
    if json:
        as_json(found.to_dict())
        return
    from rich.text import Text

    table = grid("", "")
    table.show_header = False
    for title, text in lines(found):
        table.add_row(Text(title, style="bold"), Text(text))
    stdout().print(table)
    stderr().print("nothing was started; leave out --dry-run to run it", markup=False, soft_wrap=True)


def lines(found: Forecast) -> Iterator[tuple[str, str]]:
    """(what, how much) of everything that a forecast says."""
    models = [one.cell for one in found.models]
    named = ", ".join(models[:MOST_NAMED]) + (", …" if len(models) > MOST_NAMED else "")
    yield "models", f"{count(len(models), 'model')} to train: {named}"
    if found.points > 1:
        yield "", f"and again at each of {found.points} points of the map, the base among them"
    least, middle, most = found.records
    held = f"{least} records each" if least == most else f"{least} to {most} records (median {middle})"
    cohorts = " or ".join(map(str, found.cohorts))
    yield "clients", f"{count(found.clients, 'client')}, {cohorts} in a round, with {held}"
    rounds = sorted({one.rounds for one in found.models})
    span = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    yield "rounds", f"{span} for each model, {found.messages:,} training messages in all"
    yield "attacks", _attacks(found)
    memory = found.memory
    workers = "workers of a cluster" if memory.workers is None else count(memory.workers, "process", "es")
    yield (
        "memory",
        f"{size(memory.worker)} in each of {workers}; the model {size(memory.model)},"
        f" {count(memory.chunk, 'client')} at once",
    )
    yield (
        "disk",
        f"observations {size(found.observations)} of at most {size(found.limit)}, trained models"
        f" {size(found.weights)}",
    )
    yield "time", _time(found)
    yield "", f"not counted: {', '.join(found.seconds.uncounted)}"
    for position, one in enumerate(found.private):
        yield "ε" if not position else "", _epsilon(one)
    if not found.private:
        yield "ε", "none: no defense adds noise that is accounted for"


def _attacks(found: Forecast) -> str:
    told = found.attacks
    if not told.names:
        return "none"
    names = f"{count(len(told.names), 'attack')} ({', '.join(told.names)})"
    return (
        f"{names} x {count(told.victims, 'victim')}: {count(told.trials, 'trial')} in all,"
        f" {told.answers:,} answers and as many controls"
    )


def _time(found: Forecast) -> str:
    told = found.seconds
    if told.training is None or told.attacks is None:
        return "not known: it could not be tried"
    whole = duration(round(told.training + told.attacks))
    return (
        f"about {whole} (training {duration(round(told.training))}, attacks {duration(round(told.attacks))})"
        f" by {ROUGH}"
    )


def _epsilon(one: Spending) -> str:
    from fedlab.report.reading import epsilon, protects, small

    who = f"{one.strategy}/{one.defense}" if one.strategy else one.defense
    if one.epsilon is None:
        return f"{who}: no formal guarantee, for {one.reason}"
    whose = "" if one.client is None else f"; client {one.client}, in {count(one.rounds, 'round')}"
    bound = "" if one.exact else ", if it were asked in each"
    beside = "".join(
        f"; {epsilon(other)} for {protects(unit)}" for unit, other in one.beside if other is not None
    )
    return (
        f"{who}: {epsilon(one.epsilon)} at δ = {small(one.delta)} for {protects(one.unit)}{beside}, by"
        f" {one.accountant}{whose}{bound}"
    )


def count(number: int, noun: str, plural: str = "s") -> str:
    """1 cell, 2 cells, 1,000 cells"""
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def size(number: float) -> str:
    """Bytes, to three digits: 24.6 kB, 494 MB"""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"
