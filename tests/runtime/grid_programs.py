"""Small programs of pushes, pulls and cancellations, and a slow simulator that needs no queue.

The oracle never executes late: it lets each client work at the moment when its device is done, in the
order of time, and a client that is stopped before has done nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import strategies as st

from fedlab.runtime import SimulatedFleet, SimulationGrid, client_of
from fedlab.runtime.devices import Errand
from fedlab.runtime.executors import Chunk, InlineExecutor, Reply

DEVICES = 4
FLEET = SimulatedFleet(DEVICES, time=(1.0, 1.0, 2.5, 0.0), dropout=0.2)
"""Two devices that tie, a slow one, and one that takes no time."""

WHICH = st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=4)
"""Positions among the messages sent so far; None means all."""

Program = list[tuple[Any, ...]]

EPILOGUE: Program = [("push", list(range(DEVICES))), *[("pull", None)] * 12]
"""Shows what each client remembers."""

PROGRAMS = st.lists(
    st.tuples(st.just("push"), st.lists(st.integers(0, DEVICES - 1), min_size=1, max_size=5))
    | st.tuples(st.just("pull"), WHICH)
    | st.tuples(st.just("until"), WHICH, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    | st.tuples(st.just("cancel"), WHICH),
    max_size=12,
).map(lambda program: [*program, *EPILOGUE])

Seen = list[tuple[float, list[tuple[str, Any]]]]
"""After each step: the time, and (message, what it answered) of each reply."""


def listening_app() -> ClientApp:
    """Answers with all that it has heard so far; fails on every fifth message and forgets that one."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = context.state.setdefault("heard", ConfigRecord({"all": []}))
        state["all"] = [*state["all"], message.content["it"]["number"]]
        if message.content["it"]["number"] % 5 == 4:
            raise RuntimeError("not again")
        heard = MetricRecord({"heard": list(state["all"])})
        return Message(RecordDict({"heard": heard}), reply_to=message)

    return app


class Recording(InlineExecutor):
    """Keeps the ids of the messages in each chunk, and runs the chunks in the opposite order."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[list[str]] = []

    def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
        self.chunks += [[delivery.message.metadata.message_id for delivery in chunk] for chunk in chunks]
        return super().run(chunks[::-1])[::-1]


class Player:
    """Runs programs on a Grid."""

    def __init__(self, grid: SimulationGrid, sent: Sequence[str] = ()) -> None:
        self.grid, self.sent = grid, list(sent)

    def step(self, step: tuple[Any, ...]) -> tuple[float, list[tuple[str, Any]]]:
        kind, what, grid = step[0], step[1], self.grid
        if kind == "push":
            numbers = range(len(self.sent), len(self.sent) + len(what))
            contents = [RecordDict({"it": ConfigRecord({"number": number})}) for number in numbers]
            pairs = zip(contents, what, strict=True)
            self.sent += grid.push_messages(
                [Message(content, grid.get_node_ids()[device], "train") for content, device in pairs]
            )
            return grid.now, []
        which = chosen(what, self.sent)
        if kind == "cancel":
            grid.cancel(which)
            return grid.now, []
        replies = grid.pull_messages(which) if kind == "pull" else grid.pull_until(which, grid.now + step[2])
        return grid.now, [answer(reply) for reply in replies]


def chosen(what: list[int] | None, sent: Sequence[str]) -> list[str]:
    """Distinct ids, in the order given."""
    return list(sent) if what is None else list(dict.fromkeys(sent[i % len(sent)] for i in what if sent))


def answer(reply: Message) -> tuple[str, Any]:
    """(message, what was heard, or the last line of the error)."""
    about = reply.metadata.reply_to_message_id
    if reply.has_error():
        return about, str(reply.error.reason).strip().splitlines()[-1]
    assert client_of(reply.metadata.src_node_id) >= 0
    return about, list(reply.content["heard"]["heard"])


@dataclass
class Sent:
    """A message in the oracle."""

    id: str
    number: int
    device: int
    due: float
    silent: float | None
    over: bool = False
    said: Any = None
    gone: bool = False


@dataclass
class Oracle:
    """The same programs, with every client at work in its own time."""

    now: float = 0.0
    sent: list[Sent] = field(default_factory=list)
    heard: dict[int, list[int]] = field(default_factory=dict)

    def step(self, step: tuple[Any, ...]) -> tuple[float, list[tuple[str, Any]]]:
        kind, what = step[0], step[1]
        if kind == "push":
            for device in what:
                ahead = [
                    one.due for one in self.sent if one.device == device and not (one.gone and not one.over)
                ]
                number = len(self.sent)
                errand = Errand(device, number + 1, max([self.now, *ahead]))
                visit = FLEET.visit(errand, seed=0)
                due = visit.start + visit.seconds
                silent = due - self.now if visit.silent else None
                self.sent.append(Sent(f"m{number + 1}", number, device, due, silent))
            self._work()
            return self.now, []
        ids = chosen(what, [one.id for one in self.sent])
        waiting = [one for one in self.sent if one.id in ids and not one.gone]
        if kind == "cancel":
            for one in waiting:
                one.gone = True
            return self.now, []
        deadline = float("inf") if kind == "pull" else self.now + step[2]
        first = min((one.due for one in waiting), default=float("inf"))
        if first > deadline or first == float("inf"):
            self.now = self.now if deadline == float("inf") else deadline
            self._work()
            return self.now, []
        self.now = max(self.now, first)
        self._work()
        ready = sorted((one.due, one.number) for one in waiting if one.due <= self.now)
        for _, number in ready:
            self.sent[number].gone = True
        return self.now, [(self.sent[number].id, self.sent[number].said) for _, number in ready]

    def _work(self) -> None:
        """Let every device that is done by now be done."""
        for one in sorted(self.sent, key=lambda one: (one.due, one.number)):
            if one.due <= self.now and not one.over and not one.gone:
                one.over = True
                heard = self.heard.get(one.device, [])
                if one.silent is not None:
                    one.said = f"dropped out after {one.silent:g} virtual seconds"
                elif one.number % 5 == 4:
                    one.said = "RuntimeError: not again"
                else:
                    self.heard[one.device] = one.said = [*heard, one.number]
