"""`--set a.b=v`: change one value of a scenario, typed by the schema.

    --set strategy.rounds=50   --set clients.mode='["train","eval"]'   --set task.model=lenet
    --set task.model.width=64  --set defenses.1.noise_multiplier=2     --set defenses.dp-sgd.delta=1e-6
    --set strategies.fedbuff.cohort=20

The value is read as TOML; what is no TOML, and whatever goes where only text can stand, is text, so
strings need no quotes. An element of a list is named by its index, its label or its name.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from typing import Any

from fedlab.errors import FedlabError, Problem, did_you_mean
from fedlab.scenario.given import table
from fedlab.scenario.places import Path
from fedlab.scenario.plugged import parameters_at
from fedlab.scenario.schema import SCHEMA, Scenario

FREE: dict[str, Any] = SCHEMA["$defs"]["Strategy"]["properties"]["options"]
"""The schema of a table of a plugin's parameters that does not hold its name."""

EXCLUSIVE = {
    ("seed",): ("seeds",),
    ("clients", "local_steps"): ("clients", "local_epochs"),
    ("devices", "trace"): ("devices", "time"),
    ("devices", "availability", "trace"): ("devices", "availability", "up"),
}
"""Pairs of which a scenario has one: an override drops the file's other, but not another override."""


def apply(data: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], set[Path], list[Problem]]:
    """The changed copy, the paths that were set, and what could not be."""
    touched: set[Path] = set()
    problems = []
    for override in sorted(overrides, key=_breadth):
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(
                Problem(f"--set {override}", "expected KEY=VALUE, as in --set strategy.rounds=50")
            )
            continue
        try:
            changed = copy.deepcopy(data)
            path = _set(changed, tuple(part.strip() for part in key.split(".")), text)
        except ValueError as error:
            problems.append(Problem(f"--set {key.strip()}", str(error)))
            continue
        data = changed
        for pair in EXCLUSIVE.items():
            for one, other in (pair, pair[::-1]):
                if path[: len(one)] == one and not any(_overlap(other, earlier) for earlier in touched):
                    _drop(data, other)
        touched.add(path)
    return data, touched, problems


def _overlap(one: Path, other: Path) -> bool:
    """Whether one path lies within the other."""
    return all(mine == theirs for mine, theirs in zip(one, other, strict=False))


def _breadth(override: str) -> tuple[int, bool]:
    """Tables before their keys, and a plugin's name before its parameters: the order given is free."""
    parts = override.partition("=")[0].split(".")
    return len(parts), parts[-1].strip() != "name"


def _set(data: dict[str, Any], parts: tuple[str, ...], text: str) -> Path:
    """Set one value in place; returns its path, with indices where `parts` has labels."""
    root = SCHEMA
    node: dict[str, Any] = root
    here: Any = data
    path: Path = ()
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        where = ".".join(map(str, path)) or "a scenario"
        options = alternatives(node, root)
        if isinstance(here, list):
            index = _index(here, part, where)
            path += (index,)
            node = _items(options)
            if last:
                here[index] = _value(text, node, root)
            else:
                here[index] = _table(here[index])
                here = here[index]
            continue
        known = properties(options)
        if not known and options != [FREE]:
            raise ValueError(f'{where} holds a value, not a table; there is no "{part}" in it')
        node = known.get(part) or _parameter(options, here, path, part, where, known)
        path += (part,)
        if last:
            here[part] = _value(text, node, root)
        else:
            inner = here[part] if part in here else _default(path, data)
            if not isinstance(inner, list):
                inner = _table(inner)
            here[part] = inner
            here = inner
    return path


def _parameter(
    options: list[dict[str, Any]], here: Any, path: Path, part: str, where: str, properties: dict[str, Any]
) -> dict[str, Any]:
    """The schema of a plugin's parameter."""
    known = set(properties)
    if options == [FREE]:
        return FREE  # checked with the plugin that they are for; one may be a plugin itself
    if any(option.get("additionalProperties") is True for option in options):
        try:
            parameters = {item.name: item for item in parameters_at(path, str(here.get("name")))}
        except FedlabError:
            return {}  # the plugin itself is what is wrong; it is reported when the scenario is checked
        if part in parameters or "**" in parameters:
            return parameters[part].schema if part in parameters else {}
        known |= set(parameters)
    raise ValueError(
        f'{where} has no "{part}".{did_you_mean(part, known)} It has: {", ".join(sorted(known))}'
    )


def _value(text: str, node: dict[str, Any], root: dict[str, Any]) -> Any:
    """TOML if that is what it is, unless only text can stand there."""
    try:
        value: Any = tomllib.loads(f"value = {text}\n")["value"]
    except (ValueError, RecursionError):
        return text.strip()
    kinds = {option.get("type") for option in alternatives(node, root)}
    return text.strip() if kinds and kinds <= {"string", "null"} and not isinstance(value, str) else value


def alternatives(node: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema node, with references followed."""
    if "$ref" in node:
        return alternatives(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    if "anyOf" in node:
        return [option for part in node["anyOf"] for option in alternatives(part, root)]
    return [node]


def properties(options: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What stands in a table that may be any of `options`, by key."""
    return {name: node for option in options for name, node in option.get("properties", {}).items()}


def _items(options: list[dict[str, Any]]) -> dict[str, Any]:
    return next((option["items"] for option in options if "items" in option), {})


def _index(here: list[Any], part: str, where: str) -> int:
    if part.isdecimal() and int(part) < len(here):
        return int(part)
    labels = [item.get("label", item.get("name")) if isinstance(item, dict) else None for item in here]
    if part in labels:
        return labels.index(part)
    named = [f"{index}{f' ({label})' if label else ''}" for index, label in enumerate(labels)]
    raise ValueError(f'{where} has no element "{part}". It has: {", ".join(named) or "none"}')


def _table(value: Any) -> Any:
    """`"mlp"` in its long form, so that a parameter can be set beside the name."""
    return {"name": value} if isinstance(value, str) else value if isinstance(value, dict) else {}


def _default(path: Path, data: dict[str, Any]) -> Any:
    """What a scenario means when it leaves out the table or list at `path`."""
    if path[0] == "strategies" and len(path) > 2:  # an entry means what [strategy] says
        path = ("strategy", *path[2:])
        here = table(data, "strategy").get(str(path[1]))
        if here is not None:
            return copy.deepcopy(here)
    node: Any = Scenario.model_validate({"schema": 1, "task": {"dataset": "digits", "model": "mlp"}})
    node = node.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"task"})
    for part in path:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    # A section's own defaults stay implicit; a plugin's name must be there to take parameters.
    if isinstance(node, dict):
        return {"name": node["name"]} if "name" in node else {}
    return node


def _drop(data: dict[str, Any], path: Path) -> None:
    here: Any = data
    for part in path[:-1]:
        here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(path[-1], None)
