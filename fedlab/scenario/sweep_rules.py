"""What is wrong with a `[sweep]`: every cell is tried as overrides before anything runs, all told at once.

A mistake is told where it comes from: at a value, if every cell with that value has it, and else as what
several values make together.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from fedlab.errors import Problem
from fedlab.scenario import overrides as changes
from fedlab.scenario.given import Mistake
from fedlab.scenario.map_rules import assignment, same, written
from fedlab.scenario.places import Path

Check = Callable[[dict[str, Any]], list[Mistake]]
"""All mistakes of a scenario's tables."""
Settings = dict[str, Any]
"""Key -> value: what one cell is set to."""

MOST = 1000
"""Cells of a sweep; more are a slip of the keyboard."""

FIXED = {
    "schema": "it is the version of the format",
    "name": "each cell is named after its settings",
    "claim": "it is a sentence about the whole sweep",
    "sweep": "a sweep has no sweeps in it",
}
"""Keys at the top that no axis changes, and why."""


def join(data: dict[str, Any], axes: Sequence[str]) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """The tables with `"a.b=1,2,3"` in their `[sweep]`, the keys that came so, and what could not be read."""
    given = data.get("sweep", {})
    merged = dict(given) if isinstance(given, dict) else given
    keys: list[str] = []
    problems = []
    for text in axes:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not equals or not key or not listed.strip():
            problems.append(
                Problem(f"--sweep {text}", "expected KEY=VALUE,VALUE, as in --sweep clients.batch_size=1,4,8")
            )
        elif key in keys:
            problems.append(Problem(f"--sweep {key}", "given twice; expected all values of a key in one"))
        elif isinstance(merged, dict):
            keys.append(key)
            merged[key] = values(listed)
    return (data | {"sweep": merged} if keys else data), keys, problems


def values(text: str) -> list[Any]:
    """`1,2`, `mean,median` or `["train"],["eval"]` as values; what is no TOML is text."""
    found = []
    for part in _split(text):
        try:
            found.append(tomllib.loads(f"value = {part}\n")["value"])
        except (ValueError, RecursionError):
            found.append(part)
    return found


def _split(text: str) -> Iterator[str]:
    """At commas outside quotes and brackets."""
    depth, quote, start = 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def combinations(axes: Mapping[str, Sequence[Any]]) -> Iterator[Settings]:
    """The cells: the last axis turns first."""
    for chosen in product(*axes.values()):
        yield dict(zip(axes, chosen, strict=True))


def changed(data: dict[str, Any], settings: Settings) -> tuple[dict[str, Any], list[Problem]]:
    """The tables of one cell, without `[sweep]`, and what cannot be set."""
    plain = {key: value for key, value in data.items() if key != "sweep"}
    new, _, problems = changes.apply(plain, [assignment(*one) for one in settings.items()])
    return new, problems


def mistakes(data: dict[str, Any], check: Check) -> Iterator[Mistake]:
    """What `[sweep]` asks for in vain.

    Args:
        check: finds all other mistakes of a scenario's tables.
    """
    axes = data.get("sweep")
    if not isinstance(axes, dict) or not axes:
        return
    wrong = [one for key, listed in axes.items() for one in _axis(key, listed)]
    yield from wrong
    if wrong or not all(isinstance(listed, list) and listed for listed in axes.values()):
        return
    count = math.prod(map(len, axes.values()))
    if count > MOST:
        sizes = " x ".join(str(len(listed)) for listed in axes.values())
        yield ("sweep",), f"{sizes} values are {count} cells; expected at most {MOST}"
        return
    known = set(check({key: value for key, value in data.items() if key != "sweep"}))
    cells = list(combinations(axes))
    found: dict[Mistake, list[int]] = {}
    for place, settings in enumerate(cells):
        for mistake in _cell(data, settings, check) - known:
            found.setdefault(mistake, []).append(place)
    for (path, text), places in found.items():
        yield from _blamed(path, text, places, cells, axes)


def _axis(key: str, listed: Any) -> Iterator[Mistake]:
    """What can be said of an axis without trying it."""
    here: Path = ("sweep", key)
    if isinstance(listed, dict):
        inner = next(iter(listed), "...")
        yield here, f'is a table; write the whole key in quotes, as in "{key}.{inner}" = [1, 2]'
        return
    if (top := key.partition(".")[0]) in FIXED:
        yield here, f"cannot be swept: {FIXED[top]}"
    for place, value in enumerate(listed if isinstance(listed, list) else ()):
        if any(same(value, other) for other in listed[:place]):
            yield (*here, place), f"{written(value)} is given twice; expected each once"


def _cell(data: dict[str, Any], settings: Settings, check: Check) -> set[Mistake]:
    """The mistakes of one cell; of a key that cannot be set, at its axis, beside those of the others."""
    new, problems = changed(data, settings)
    unset = {(("sweep", one.place.removeprefix("--set ")), one.message) for one in problems}
    return unset | set(check(new))


def _blamed(
    path: Path, text: str, places: list[int], cells: list[Settings], axes: dict[str, list[Any]]
) -> Iterator[Mistake]:
    """A mistake of some cells, at the values that make it."""
    if path[0] == "sweep":
        yield path, text
        return
    dotted = ".".join(map(str, path))
    having = {key: [_place(axes[key], cells[place][key]) for place in places] for key in axes}
    for key in sorted(axes, key=lambda key: not _near(key, dotted)):
        these = set(having[key])
        alone = sum(_place(axes[key], cell[key]) in these for cell in cells) == len(places)
        if alone and (len(these) < len(axes[key]) or _near(key, dotted)):
            for place in sorted(these):
                yield ("sweep", key, place), text if key == dotted else f"{dotted}: {text}"
            return
    first = ", ".join(assignment(*one) for one in cells[places[0]].items())
    more = f" (and in {len(places) - 1} more cells)" if len(places) > 1 else ""
    yield ("sweep",), f"with {first}{more}: {dotted}: {text}"


def _place(listed: list[Any], value: Any) -> int:
    return next(place for place, one in enumerate(listed) if one is value)


def _near(key: str, dotted: str) -> bool:
    """Whether one of two keys lies within the other."""
    return f"{dotted}.".startswith(f"{key}.") or f"{key}.".startswith(f"{dotted}.")


def axis_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's shortest ending that no other has: `clients.batch_size` is `batch_size`."""
    short = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((one for one in endings if not any(o.endswith(f".{one}") for o in others)), key)
    return short
