"""`[[strategies]]`: each entry over the `[strategy]` that it starts from, and where its mistakes stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fedlab.scenario.given import Mistake, table
from fedlab.scenario.strategy import Strategy

NAMED = Strategy.model_fields["name"].default
"""The strategy where none is named."""


def entries(data: dict[str, Any]) -> list[Any]:
    """`[[strategies]]` as they came; empty where there are none."""
    found = data.get("strategies")
    return list(found) if isinstance(found, list | tuple) else []


def merged(data: dict[str, Any]) -> list[Any]:
    """Each entry with its label and what it takes over from `[strategy]`; what is no table stays as it is.

    Keys are taken over whole; `options` only by an entry of the same name, for they mean nothing to another.
    """
    return [_over(table(data, "strategy"), one) if isinstance(one, dict) else one for one in entries(data)]


def _over(shared: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    name = shared.get("name", NAMED)
    if entry.get("name", name) != name:
        shared = {key: value for key, value in shared.items() if key != "options"}
    return {"label": entry.get("name", name), **shared, **entry}


def across(data: dict[str, Any], check: Callable[[dict[str, Any]], Iterable[Mistake]]) -> Iterator[Mistake]:
    """What `check` finds under each strategy, at the place where it can be mended.

    What `[strategy]` has wrong by itself stands there, and once. What goes wrong because of an entry stands
    at the entry or, where it is no key of a strategy at all, names it.
    """
    if not entries(data):
        yield from check(data)
        return
    shared = list(check(data))
    for index, (entry, whole) in enumerate(zip(entries(data), merged(data), strict=True)):
        if not isinstance(entry, dict):
            continue
        for path, text in check(data | {"strategy": whole}):
            about = path[:1] == ("strategy",)
            if (path, text) in shared and not (about and path[1:2] and path[1] in entry):
                yield path, text
            elif about:
                yield ("strategies", index, *path[1:]), text
            else:
                yield path, f'{text} (under the strategy "{whole["label"]}")'


def distinct(whole: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The entry from which `merged` makes `whole`: its label, and what differs from `[strategy]`."""
    other = whole["name"] != shared["name"]
    return {"label": whole["label"]} | {
        key: value
        for key, value in whole.items()
        if key != "label" and (value != shared.get(key) or (other and key == "options" and value))
    }
