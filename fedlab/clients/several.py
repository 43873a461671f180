"""Clients that hold records of several tasks, and train the one that a message is about.

A message names its task in its config ("task") and carries that task's arrays alone, under their plain names;
`label/name` is what a server calls them among those of all tasks. What a client remembers of one task is
kept apart from what it remembers of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlab.clients.app import CohortApp
from fedlab.errors import UsageError
from fedlab.tasks import State

TASK = "task"
"""Key of a message's "config": the label of the task that it is about."""


def joined(states: Mapping[str, State]) -> State:
    """One state of several, by label: `label/name`."""
    return {f"{label}/{name}": value for label, state in states.items() for name, value in state.items()}


def part_of(state: State, label: str) -> State:
    """What `joined` put there for one task, under its plain names; all of it for the label ""."""
    if not label:
        return state
    start = f"{label}/"
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def task_of(message: Message) -> str:
    """The label of the task that a message is about; "" where it names none."""
    config = cast(ConfigRecord, message.content.get("config", ConfigRecord()))
    return str(config.get(TASK, ""))


class SeveralApp(ClientApp):
    """The clients of several tasks as one ClientApp.

    Args:
        apps: each task's clients, by label.
        sizes: by label, how many messages of a task are trained as one stack at most.
    """

    def __init__(self, apps: Mapping[str, CohortApp], sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.apps, self.sizes = dict(apps), dict(sizes)
        self.train()(self._one)
        self.evaluate()(self._one)

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer each message in order; those of one task are trained together."""
        rows: dict[str, list[int]] = {}
        for row, message in enumerate(messages):
            rows.setdefault(self._label(message), []).append(row)
        replies: dict[int, Message] = {}
        for label, mine in rows.items():
            for start in range(0, len(mine), self.sizes[label]):
                part = mine[start : start + self.sizes[label]]
                answers = self._run(label, [messages[row] for row in part], [contexts[row] for row in part])
                replies |= zip(part, answers, strict=True)
        return [replies[row] for row in range(len(messages))]

    def _run(self, label: str, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        own = [_scoped(context, label) for context in contexts]
        answers = self.apps[label].run_cohort(messages, own)
        for context, mine in zip(contexts, own, strict=True):
            for name, record in mine.state.items():
                context.state[f"{label}/{name}"] = record
        return answers

    def _label(self, message: Message) -> str:
        label = task_of(message)
        if label not in self.apps:
            raise UsageError(
                f'a message about the task {label!r}; expected "{TASK}" in its config, one of'
                f" {', '.join(self.apps)}"
            )
        return label

    def _one(self, message: Message, context: Context) -> Message:
        return self.run_cohort([message], [context])[0]


def _scoped(context: Context, label: str) -> Context:
    """The context as one task's clients know it."""
    start = f"{label}/"
    own = {name.removeprefix(start): r for name, r in context.state.items() if name.startswith(start)}
    return Context(context.run_id, context.node_id, context.node_config, RecordDict(own), context.run_config)
