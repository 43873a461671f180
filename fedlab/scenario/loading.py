"""Load a scenario: find, read, override, check all of it, and only then return it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import tomli_w
from pydantic import ValidationError

from fedlab.errors import Problem, ScenarioError, did_you_mean
from fedlab.gate import parse
from fedlab.scenario import gate_rules, map_rules, places, plugged, rules, source, sweep_rules, tasks, threats
from fedlab.scenario import overrides as changes
from fedlab.scenario.given import Mistake
from fedlab.scenario.places import Path
from fedlab.scenario.schema import SCHEMA, Scenario
from fedlab.scenario.variants import distinct, entries
from fedlab.signature import describe, shown


def load(given: str | FilePath | Mapping[str, Any] | Scenario, overrides: Sequence[str] = ()) -> Scenario:
    """A checked scenario from a file, the name of a shipped one, a dict, or another scenario.

    Args:
        given: a path (`"my.toml"`), a bare name (`"quickstart"`), tables as tomllib makes them, or a
            scenario, which is checked again.
        overrides: `"a.b=v"`, as in the command line's `--set`.

    Raises:
        ScenarioError: with every mistake that can be found, and its place.
    """
    return loaded(given, overrides)[0]


def loaded(
    given: str | FilePath | Mapping[str, Any] | Scenario,
    overrides: Sequence[str] = (),
    axes: Sequence[str] = (),
) -> tuple[Scenario, dict[str, Any]]:
    """The same beside its tables, without defaults; `axes` are as in the command line's `--sweep`."""
    lines: dict[Path, int] = {}
    if isinstance(given, str | FilePath):
        file = source.find(given)
        name, text = str(given), source.read(file)
        data, lines = source.parse(text, name), places.lines(text)
        data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip(".-")[:64] or "scenario")
    elif isinstance(given, Scenario):
        name, data = f"scenario {given.name}", tables(given)
    else:
        name, data = "scenario", dict(given)
    data, touched, problems = changes.apply(_plain(data), overrides)
    data, swept, unread = sweep_rules.join(data, axes)
    scenario, mistakes = _checked(data)
    mistakes += map_rules.mistakes(data, lambda changed: _checked(changed)[1])
    mistakes = [*sweep_rules.mistakes(data, _all_mistakes), *mistakes]
    options = dict.fromkeys(touched, "--set") | {("sweep", key): "--sweep" for key in swept}
    problems += unread + _located(mistakes, lines, options)
    if problems or scenario is None:
        raise ScenarioError(name, problems)
    return scenario, data


def _all_mistakes(data: dict[str, Any]) -> list[Mistake]:
    found = _checked(data)[1]
    return found + list(map_rules.mistakes(data, lambda changed: _checked(changed)[1]))


def _checked(data: dict[str, Any]) -> tuple[Scenario | None, list[Mistake]]:
    """The scenario, if its types are sound, and every mistake that can be found."""
    scenario, mistakes = None, []
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        mistakes = _structural(error, data)
    mistakes += [*_infinities(data), *rules.mistakes(data), *plugged.mistakes(data), *tasks.mistakes(data)]
    mistakes += gate_rules.mistakes(data)
    return scenario, mistakes


def with_gates(scenario: Scenario, more: Sequence[str]) -> Scenario:
    """The scenario with more gates than its own.

    Raises:
        BadGate: one of them cannot be read, or names what the run will not have.
    """
    known = gate_rules.known_names(tables(scenario))
    for text in more:
        parse(text).check(known)
    both = tuple(dict.fromkeys([*scenario.audit.fail_on, *more]))
    return scenario.model_copy(update={"audit": scenario.audit.model_copy(update={"fail_on": both})})


def resolved_toml(scenario: Scenario) -> str:
    """The scenario with every default filled in, as TOML; `load` gives the same scenario back."""
    return tomli_w.dumps(tables(scenario))


def tables(scenario: Scenario) -> dict[str, Any]:
    """The same as `resolved_toml`, before it is text."""
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    if scenario.clients.local_steps is not None:
        del data["clients"]["local_epochs"]  # of the two, a scenario gives one
    del data["task" if scenario.tasks else "tasks"]  # of the two likewise
    data["strategies"] = [distinct(one, data["strategy"]) for one in data["strategies"]]
    if not scenario.strategies:
        del data["strategies"]
    data["threats"] = [threats.distinct(one, data["threat"]) for one in data["threats"]]
    data["threat"] = threats.plain(data["threat"])
    if not scenario.threats:
        del data["threats"]
    if not scenario.audit.fail_on:
        del data["audit"]["fail_on"]
    if not scenario.strategy.options:
        del data["strategy"]["options"]
    if scenario.devices.trace is not None:
        del data["devices"]["time"]
    return data


def _plain(value: Any) -> Any:
    """Python's tuples and paths as TOML would have them; what TOML has no word for is refused."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _infinities(value: Any, path: Path = ()) -> list[tuple[Path, str]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _infinities(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _infinities(item, (*path, index))]
    return [(path, f"got {value}; expected a finite number")] if plugged.infinite(value) else []


def _structural(error: ValidationError, data: dict[str, Any]) -> list[tuple[Path, str]]:
    """pydantic's findings in the words of the schema: what was got, what is expected."""
    found = []
    for item in error.errors():
        if _taken_over(item["loc"], data):
            continue
        path = _in_data(item["loc"], data, missing=item["type"] == "missing")
        node = _node(path)
        if item["type"] == "extra_forbidden":
            known = changes.properties(changes.alternatives(_node(path[:-1]), SCHEMA))
            where = f"in [{'.'.join(map(str, path[:-1]))}]" if path[:-1] else "at the top"
            hint = did_you_mean(str(path[-1]), known)
            found.append((path, f"unknown key.{hint} Keys {where}: {', '.join(known)}"))
        elif item["type"] == "missing":
            found.append((path, f"missing; expected {describe(node, SCHEMA)}"))
        else:
            words = describe(node, SCHEMA)
            if not words and item["type"] == "too_short":
                words = f"at least {item['ctx']['min_length']} in the list"
            found.append(
                (path, f"got {shown(item['input'])}; " + (f"expected {words}" if words else item["msg"]))
            )
    # A list whose element is wrong also counts as too short; the element says more.
    paths = [path for path, _ in found]
    return [
        (path, text)
        for path, text in found
        if not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]


def _taken_over(location: tuple[str | int, ...], data: dict[str, Any]) -> bool:
    """Whether pydantic speaks of a key that an entry of [[strategies]] has from [strategy] (or one of
    [[threats]] from [threat]), or of [task], which is from [[tasks]], where it is told."""
    match location:
        case ("task", *_):
            return "task" not in data and bool(data.get("tasks"))
        case ("strategies", int(index), key, *_):
            entry = entries(data)[index]
            return isinstance(entry, dict) and key not in entry
        case ("threats", int(index), key, *_):
            entry = threats.entries(data)[index]
            return isinstance(entry, dict) and key not in entry
    return False


def _in_data(location: tuple[str | int, ...], data: Any, *, missing: bool) -> Path:
    """pydantic's location without the parts that name an alternative of a union rather than a key."""
    path: Path = ()
    here = data
    for position, part in enumerate(location):
        here = {"name": here} if isinstance(here, str) and part == "name" else here
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if inside:
            here = here[part]
            path += (part,)
        elif missing and position == len(location) - 1:
            path += (part,)
    return path


def _node(path: Path) -> dict[str, Any]:
    """The part of the JSON Schema that describes a path; empty for a plugin's parameters."""
    options = [SCHEMA]
    for part in path:
        inner = []
        for option in options:
            inner += [option["items"]] if isinstance(part, int) and "items" in option else []
            inner += [option["properties"][part]] if part in option.get("properties", {}) else []
            others = option.get("additionalProperties")  # a table whose keys are free
            inner += [others] if isinstance(others, dict) and "properties" not in option else []
        options = [leaf for one in inner for leaf in changes.alternatives(one, SCHEMA)]
    return options[0] if len(options) == 1 else {"anyOf": options} if options else {}


def _located(
    mistakes: list[tuple[Path, str]], lines: dict[Path, int], options: Mapping[Path, str]
) -> list[Problem]:
    """One problem per path, in the order of the file; `options` of the command line set what they name."""
    first: dict[Path, str] = {}
    for path, text in mistakes:
        first.setdefault(path, text)
    located = []
    for path, text in first.items():
        dotted = ".".join(map(str, path)) or "scenario"
        line = places.line_of(path, lines)
        option = next((option for one, option in options.items() if path[: len(one)] == one), None)
        if option is not None:
            located.append((0, Problem(f"{dotted} ({option})", text)))
        else:
            located.append((line or 0, Problem(f"{dotted} (line {line})" if line else dotted, text)))
    return [problem for _, problem in sorted(located, key=lambda item: item[0])]
