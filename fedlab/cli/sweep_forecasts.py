"""`fedlab sweep --dry-run`: what cells share once, what differs in a row per cell, and the sum."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlab.cli.forecasts import ROUGH, count, lines, size
from fedlab.cli.output import as_json, grid, stderr, stdout
from fedlab.errors import FedlabError
from fedlab.terminal import duration

if TYPE_CHECKING:
    from fedlab.experiment.forecast import Forecast
    from fedlab.experiment.spending import Spending
    from fedlab.sweeps.forecast import CellForecast, SweepForecast

MEASURED = ("memory", "time")
"""What is told of all cells together: it is never twice the same."""

Figure = Callable[["Forecast"], str]
FIGURES: dict[str, dict[str, Figure]] = {
    "models": {"models": lambda one: f"{len(one.models):,}"},
    "clients": {
        "clients": lambda one: f"{one.clients:,}",
        "in a round": lambda one: " or ".join(map(str, one.cohorts)),
    },
    "rounds": {
        "rounds": lambda one: " to ".join(dict.fromkeys(map(str, _ends([m.rounds for m in one.models])))),
        "messages": lambda one: f"{one.messages:,}",
    },
    "attacks": {"answers": lambda one: f"{one.attacks.answers:,}"},
    "disk": {"disk": lambda one: size(one.observations + one.weights)},
}
"""What a row says where the lines of the cells differ: column -> figure, by the title of the line."""


def tell(
    scenario: str,
    overrides: Sequence[str],
    axes: Sequence[str],
    *,
    out: Path | None,
    workers: int | None,
    json: bool,
    quiet: bool,
) -> None:
    """Print the forecast of a sweep; nothing is trained, nothing is written.

    Raises:
        FedlabError: what cells would be refused for at their start.
    """
    from fedlab.sweeps.forecast import forecast
    from fedlab.terminal import watch

    with contextlib.redirect_stdout(sys.stderr), watch(quiet=quiet) as progress:
        found = forecast(
            scenario, overrides=overrides, axes=axes, out=out, workers=workers, progress=progress
        )
    if json:
        as_json(found.to_dict())
    else:
        _print(found)
        stderr().print("nothing was started; leave out --dry-run to run it", markup=False, soft_wrap=True)
    _refuse([(one.name, one.refused) for one in found.cells if one.refused is not None], len(found.cells))


def _print(found: SweepForecast) -> None:
    from rich.text import Text

    console = stdout()
    shared, figures = folded(found.forecasts)
    if shared:
        console.print(Text("each cell", style="bold"))
        console.print(_facts((title, line) for title, text in shared.items() for line in text))
        console.print()
    console.print(_rows(found, figures, epsilon="ε" not in shared))
    console.print()
    console.print(Text("all cells", style="bold"))
    console.print(_facts(in_all(found, epsilon="ε" not in shared)))


def folded(forecasts: Sequence[Forecast]) -> tuple[dict[str, list[str]], dict[str, Figure]]:
    """What is the same of all cells, told once: lines by title; and the columns of what is not."""
    if not forecasts:
        return {}, {}
    told = [_titled(one) for one in forecasts]
    shared: dict[str, list[str]] = {}
    columns: dict[str, Figure] = {}
    for title, text in told[0].items():
        if title in MEASURED:
            continue
        if all(one[title] == text for one in told):
            shared[title] = text
            continue
        for name, figure in FIGURES.get(title, {}).items():
            values = {figure(one) for one in forecasts}
            if len(values) > 1:
                columns[name] = figure
            else:
                shared[name] = [*values]
    if len({one.memory.model for one in forecasts}) > 1:
        columns["model"] = lambda one: size(one.memory.model)
    return shared, columns


def _titled(found: Forecast) -> dict[str, list[str]]:
    """The lines of one run, by their titles."""
    titled: dict[str, list[str]] = {}
    last = ""
    for title, text in lines(found):
        last = title or last
        titled.setdefault(last, []).append(text)
    return titled


def _facts(pairs: Iterator[tuple[str, str]]) -> object:
    from rich.text import Text

    table = grid("", "")
    table.show_header = False
    before = ""
    for title, text in pairs:
        table.add_row(Text("" if title == before else title, style="bold"), Text(text))
        before = title
    return table


def _rows(found: SweepForecast, figures: dict[str, Figure], *, epsilon: bool) -> object:
    """A row per cell: what differs, and how long it takes."""
    from rich.text import Text

    private = _private(found) if epsilon else []
    table = grid("cell", *figures, "time", *(f"ε {name}".strip() for name in private))
    for column in table.columns[1:]:
        column.justify = "right"
    for cell in found.cells:
        one = cell.forecast
        if one is None:
            cells = ["" for _ in figures] + ["refused"] + ["" for _ in private]
        else:
            spent = {_who(each): each for each in one.private}
            cells = [figure(one) for figure in figures.values()]
            cells += [_time(cell, found.start), *(_epsilon(spent.get(name)) for name in private)]
        table.add_row(*map(Text, (cell.name, *cells)))
    return table


def in_all(found: SweepForecast, *, epsilon: bool) -> Iterator[tuple[str, str]]:
    """(what, how much) of all cells together.

    Args:
        epsilon: tell what the ε of the rows are about.
    """
    known = found.forecasts
    finished = f"; {found.finished} are finished already" if found.finished else ""
    yield "cells", f"{count(len(found.cells), 'cell')} to run, {found.at_once} at a time{finished}"
    if not known:
        return
    models, messages = sum(len(one.models) for one in known), sum(one.messages for one in known)
    answers = sum(one.attacks.answers for one in known)
    yield "work", f"{count(models, 'model')}, {messages:,} training messages, {answers:,} answers of attacks"
    memory = found.memory
    held = "not known: the workers are a cluster's" if memory is None else f"at most {size(memory)} at a time"
    yield "memory", held
    yield "disk", size(sum(one.observations + one.weights for one in known))
    yield from (("time", text) for text in _times(found))
    if epsilon:
        for who in _private(found):
            told = {_about(one) for each in known for one in each.private if _who(one) == who}
            yield "ε", f"{who}: {'; or '.join(sorted(told))}".removeprefix(": ")


def _times(found: SweepForecast) -> Iterator[str]:
    if found.wall is None:
        yield "not known: not every cell could be tried"
    else:
        alone = sum(found.start + (one.seconds or 0.0) for one in found.cells)
        beside = f", {duration(round(alone))} one after the other" if found.at_once > 1 else ""
        yield f"about {duration(round(found.wall))} until all have ended{beside}, by {ROUGH}"
        yield f"of each cell, {duration(round(found.start))} are what it takes to load"
    left_out = dict.fromkeys(each for one in found.forecasts for each in one.seconds.uncounted)
    yield f"not counted: {', '.join(left_out)}"


def _time(cell: CellForecast, start: float) -> str:
    return "not known" if cell.seconds is None else duration(round(start + cell.seconds))


def _private(found: SweepForecast) -> list[str]:
    """What has an ε of its own in any cell."""
    return list(dict.fromkeys(_who(one) for each in found.forecasts for one in each.private))


def _who(one: Spending) -> str:
    return f"{one.strategy}/{one.defense}" if one.strategy else one.defense


def _epsilon(one: Spending | None) -> str:
    from fedlab.report.reading import epsilon

    return "" if one is None else "none" if one.epsilon is None else epsilon(one.epsilon)


def _about(one: Spending) -> str:
    from fedlab.report.reading import protects, small

    if one.epsilon is None:
        return f"no formal guarantee, for {one.reason}"
    bound = "" if one.exact else ", as if every client were asked in each round"
    return f"at δ = {small(one.delta)} for {protects(one.unit)}, by {one.accountant}{bound}"


def _ends(numbers: Sequence[int]) -> tuple[int, int]:
    return min(numbers), max(numbers)


def _refuse(refused: Sequence[tuple[str, FedlabError]], cells: int) -> None:
    """Fail as the sweep would: as its cells do, if all fail alike.

    Raises:
        FedlabError: there are any.
    """
    if not refused:
        return
    first = refused[0][1]
    if len(refused) == cells and all(str(error) == str(first) for _, error in refused):
        raise first
    told = "".join(f"\n  {name}: {str(error).partition(chr(10))[0]}" for name, error in refused)
    raise FedlabError(f"{len(refused)} of {cells} cells would be refused:{told}\nThe others would run")
