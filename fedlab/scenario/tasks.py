"""What is learned: one task, or several at once on the same fleet, and when a task counts as learned.

With `[[tasks]]` each client holds records of every task, and a strategy that knows tasks decides who works
for which. What one task says for itself replaces the key of the same name in `[clients]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from fedlab import plugins
from fedlab.errors import FedlabError
from fedlab.scenario.given import Mistake, table
from fedlab.scenario.places import Path
from fedlab.scenario.sections import Count, Name, PluginOrName, Positive, Section
from fedlab.scenario.strategy import Target
from fedlab.scenario.variants import NAMED, merged


class Task(Section):
    """What is learned."""

    dataset: PluginOrName
    """Data set, by name or as a table of name and parameters: `fedlab list datasets`."""
    model: PluginOrName
    """Network, by name or as a table of name and parameters: `fedlab list models`."""


OWN = ("partition", "batch_size", "local_steps", "learning_rate")
"""Keys of [clients] that a task may have for itself."""


class NamedTask(Task):
    """One of several tasks that a fleet learns at once, under a strategy that knows tasks."""

    label: Name
    """How reports and files call it."""
    partition: PluginOrName | None = None
    """How its records are shared out; `clients.partition` unless given."""
    batch_size: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Records per step; `clients.batch_size` unless given."""
    local_steps: Count | None = None
    """Steps per message; as `[clients]` says unless given."""
    learning_rate: Positive | None = None
    """Of the clients' SGD; `clients.learning_rate` unless given."""
    target: Target | None = None
    """From the first evaluation that is as good on, its clients work for the other tasks; `strategy.target`
    unless given."""

    @property
    def task(self) -> Task:
        """The same, as `[task]` has it."""
        return Task(dataset=self.dataset, model=self.model)

    @property
    def own(self) -> dict[str, Any]:
        """What replaces keys of [clients]."""
        return {key: getattr(self, key) for key in OWN if getattr(self, key) is not None}


def first(data: dict[str, Any]) -> dict[str, Any]:
    """The tables, with the first of several tasks as `[task]`: it stands for all where one will do."""
    tasks = data.get("tasks")
    if "task" in data or not isinstance(tasks, list | tuple) or not tasks:
        return data
    one = tasks[0]
    return data | {
        "task": {key: one[key] for key in ("dataset", "model") if key in one}
        if isinstance(one, dict)
        else one
    }


def mistakes(data: dict[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the tasks of a scenario, and with what else it asks of them."""
    tasks = data.get("tasks", [])
    if not isinstance(tasks, list) or not tasks:
        return
    if "task" in data:
        yield ("tasks",), "task and tasks are both given; expected one of them"
    yield from _labels(tasks)
    yield from _targets(tasks)
    yield from _alone_only(data)
    yield from _strategies(data)
    yield from _each(data, tasks)


def _labels(tasks: list[Any]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for index, one in enumerate(tasks):
        label = one.get("label") if isinstance(one, dict) else None
        if isinstance(label, str):
            if label in seen:
                yield (
                    ("tasks", index),
                    f'there is already one labelled "{label}"; give this one another label',
                )
            seen.add(label)


def _targets(tasks: list[Any]) -> Iterator[Mistake]:
    for index, one in enumerate(tasks):
        target = one.get("target") if isinstance(one, dict) else None
        if isinstance(target, dict) and len(target.keys() & {"accuracy", "loss"}) != 1:
            yield ("tasks", index, "target"), "expected either an accuracy or a loss"


def _alone_only(data: dict[str, Any]) -> Iterator[Mistake]:
    """What needs one model."""
    yet = "on several tasks are not supported yet; run each task alone"
    for key in ("attacks", "adversaries"):
        if data.get(key):
            yield (key,), f"{key} {yet}"
    given = data.get("defenses")
    for index, one in enumerate(given if isinstance(given, list) else []):
        if isinstance(one, dict) and one.get("name", "none") != "none":
            yield ("defenses", index), f"defenses {yet}"
    if table(data, "audit").get("include_samples") is True:
        yield ("audit", "include_samples"), f"audits {yet}"
    if "stragglers" in table(data, "clients"):
        yield ("clients", "stragglers"), f"stragglers {yet}"


def _strategies(data: dict[str, Any]) -> Iterator[Mistake]:
    """Strategies that know of one model only."""
    given: list[tuple[Path, Any]] = [(("strategies", index), one) for index, one in enumerate(merged(data))]
    for path, one in given or [(("strategy",), table(data, "strategy"))]:
        name = one.get("name", NAMED) if isinstance(one, dict) else None
        if isinstance(name, str) and not _knows(name):
            known = [other for other in plugins.names("strategies") if _knows(other)]
            yield (
                (*path, "name"),
                f"{name} trains one model; expected, for several tasks, {' or '.join(known)}",
            )


def _knows(strategy: str) -> bool:
    """Whether a strategy trains several tasks; one that cannot be loaded is told of elsewhere."""
    try:
        return "tasks" in inspect.signature(plugins.load("strategies", strategy)).parameters
    except (FedlabError, ValueError):
        return strategy not in plugins.names("strategies")


def _each(data: dict[str, Any], tasks: list[Any]) -> Iterator[Mistake]:
    """What is wrong with the plugins of each task, tried as if it were the only one."""
    from fedlab.scenario import plugged  # which knows the scenario's schema, and so this module

    shared = [text for _, text in plugged.mistakes(data)]
    for index, one in enumerate(tasks):
        if not isinstance(one, dict):
            continue
        for path, text in plugged.mistakes(alone(data, one)):
            if text not in shared:
                yield _place(path, index, one), text


def alone(data: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """The tables of the scenario that trains this one task alone."""
    clients = {**table(data, "clients"), **{key: one[key] for key in OWN if key in one}}
    if "local_steps" in one:
        clients.pop("local_epochs", None)
    task = {key: one[key] for key in ("dataset", "model") if key in one}
    return {key: value for key, value in data.items() if key != "tasks"} | {"task": task, "clients": clients}


def _place(path: Path, index: int, one: dict[str, Any]) -> Path:
    """Where in [[tasks]] stands what stands there in the scenario of the task alone."""
    if path[:1] == ("task",) or (path[:1] == ("clients",) and path[1:2] and path[1] in one):
        return ("tasks", index, *path[1:])
    return path
