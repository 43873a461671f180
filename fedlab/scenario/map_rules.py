"""What is wrong with a `[map]`: settings that cannot be turned, or not to that value, all told at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from fedlab.scenario import overrides as changes
from fedlab.scenario.given import Mistake, table
from fedlab.scenario.places import Path
from fedlab.scenario.sections import as_table

Check = Callable[[dict[str, Any]], list[Mistake]]
"""All mistakes of a scenario's tables."""

FIXED = {
    "clients.mode": "the modes are those of the scenario, and every point has them: set clients.mode",
    "clients.count": "with other clients the victims would be others, and points could not be compared",
    "clients.partition": "with other records the victims would be others, and points could not be compared",
}
"""Keys of `[clients]` that no axis turns, and why."""

ONE = {
    "defenses": "one defense",
    "strategies": "one strategy",
    "tasks": "one task",
}
"""Lists of which a scenario with a map has one element at most."""


def mistakes(data: dict[str, Any], check: Check) -> Iterator[Mistake]:
    """What `[map]` asks for in vain.

    Args:
        check: finds all other mistakes; each value of each axis is tried in the scenario, alone.
    """
    settings = data.get("map")
    if not isinstance(settings, dict):
        return
    yield from _company(data, settings)
    axes = settings.get("axes")
    plain = {key: value for key, value in data.items() if key != "map"}
    known = set(check(plain))
    for key, values in axes.items() if isinstance(axes, dict) else ():
        if isinstance(values, list) and values:
            yield from _axis(key, values, plain, lambda changed: set(check(changed)) - known)


def assignment(key: str, value: object) -> str:
    """As the command line's `--set` has it: `task.model.norm="batch"`."""
    return f"{key}={written(value)}"


def written(value: object) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def same(one: object, other: object) -> bool:
    """Whether two values mean the same: `true` is no 1, and "lenet" is { name = "lenet" }."""
    return as_table(one) == as_table(other) and isinstance(one, bool) == isinstance(other, bool)


def _company(data: dict[str, Any], settings: dict[str, Any]) -> Iterator[Mistake]:
    """What a map demands of the rest of the scenario."""
    for key, words in ONE.items():
        given = data.get(key)
        if isinstance(given, list) and len(given) > 1:
            yield (
                ("map",),
                f"the scenario has {len(given)} [[{key}]]; expected {words}, for every point alike",
            )
    given = data.get("attacks")
    listed = given if isinstance(given, list) else []
    labels = [one.get("label", one.get("name")) for one in listed if isinstance(one, dict)]
    if not labels:
        yield ("map",), "the scenario has no [[attacks]]; expected at least one, whose scores the map shows"
    chosen = settings.get("basin_attack")
    if isinstance(chosen, str) and labels and chosen not in labels:
        known = ", ".join(map(str, labels))
        yield ("map", "basin_attack"), f'got "{chosen}"; expected the label of one of [[attacks]]: {known}'


def _axis(
    key: str, values: list[Any], data: dict[str, Any], check: Callable[[dict[str, Any]], set[Mistake]]
) -> Iterator[Mistake]:
    here: Path = ("map", "axes", key)
    path = tuple(key.split("."))
    if key in FIXED:
        yield here, f"cannot be turned: {FIXED[key]}"
        return
    if path[:2] != ("task", "model") and (path[0] != "clients" or len(path) < 2):
        yield here, "cannot be turned; expected a key of [task.model] or of [clients], as in task.model.width"
        return
    if path[0] == "task" and as_table(table(data, "task").get("model")) == {"name": "own"}:
        yield (
            here,
            "the network comes from Python, which has its knobs; turn keys of [clients], or offer the network"
            " as a plugin (fedlab.models), whose parameters can be turned",
        )
        return
    for place, value in enumerate(values):
        if any(same(value, other) for other in values[:place]):
            yield (*here, place), f"{written(value)} is given twice; expected each once"
            continue
        changed, _, problems = changes.apply(data, [assignment(key, value)])
        if problems:
            yield here, problems[0].message
            return
        for where, text in sorted(check(changed), key=str)[:1]:
            told = text if where == path else f"{'.'.join(map(str, where))}: {text}"
            yield (*here, place), told
