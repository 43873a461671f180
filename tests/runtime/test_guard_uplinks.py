"""The guard and what clients send beside their update: a record of its own, array by array."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlab.errors import UsageError
from fedlab.runtime.arrays import SERVER, UPLINK, Stack, array_records
from fedlab.runtime.guard import GuardedGrid
from tests.runtime.test_guard import Mailbox

MODEL = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32), "n": np.array(7, np.int64)}
UPLINKS = ("control/w", "control/b")
Mutation = Callable[[RecordDict], object]


def record(values: dict[str, Any], stacked: bool = False) -> ArrayRecord:
    if stacked:
        return array_records({k: Stack(torch.from_numpy(np.stack([v, v]))) for k, v in values.items()}, 2)[1]
    return ArrayRecord({key: Array(np.asarray(value)) for key, value in values.items()})


def control(value: float = 0.5) -> dict[str, Any]:
    return {f"control/{key}": np.full_like(MODEL[key], value) for key in ("w", "b")}


def answer(stacked: bool = False) -> RecordDict:
    return RecordDict(
        {
            "arrays": record(MODEL, stacked),
            "metrics": MetricRecord({"num-examples": 3}),
            UPLINK: record(control(), stacked),
        }
    )


class Scene:
    """A guard around a mailbox, and what became of one reply."""

    def __init__(self, uplinks: Any = UPLINKS, max_norm: float = 100.0) -> None:
        self.box, self.told = Mailbox(), ""
        self.guard = GuardedGrid(self.box, max_norm=max_norm, uplinks=uplinks, rejected=self.hear)

    def hear(self, message: Message | None, reply: Message, kind: str, reason: str) -> None:
        self.told = f"{kind}: {reason}"

    def judge(self, *contents: RecordDict, ask: RecordDict | None = None) -> list[Message]:
        """What the guard makes of an answer of each node from 2 on."""
        sent = ask or RecordDict(
            {"arrays": record(MODEL), SERVER: record(control()), "config": ConfigRecord()}
        )
        messages = [
            Message(sent, dst_node_id=2 + node, message_type="train") for node in range(len(contents))
        ]
        self.guard.push_messages(messages)
        pairs = zip(contents, messages, strict=True)
        self.box.replies = [Message(content, reply_to=message) for content, message in pairs]
        return self.guard.pull_messages([])


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_expected_passes_untouched_and_what_the_server_told_does_not_come_back(stacked: bool) -> None:
    scene = Scene()
    content = answer(stacked)
    (reply, other) = scene.judge(content, answer(stacked))
    assert reply.content is content and not other.has_error() and not scene.told
    renamed = RecordDict({"mine": content["arrays"], "m": content["metrics"], UPLINK: content[UPLINK]})
    (reply,) = scene.judge(renamed)
    assert not reply.has_error(), "what a client calls its model is its own affair"


def put(key: str, value: Any) -> Mutation:
    def mutate(content: RecordDict) -> None:
        content[UPLINK][key] = Array(np.asarray(value))  # type: ignore[index, assignment]

    return mutate


def row(value: float) -> Mutation:
    """One number of a stack's row."""

    def mutate(content: RecordDict) -> None:
        values = control()
        values["control/b"][1] = value
        content[UPLINK] = record(values, stacked=True)

    return mutate


MALFORMED: dict[str, tuple[str, Mutation]] = {
    "no uplink": ("records: no ArrayRecord 'uplink'", lambda content: content.pop(UPLINK)),
    "an empty uplink": ("keys: missing", lambda content: content[UPLINK].clear()),
    "a missing array": (
        "keys: missing arrays: 'control/b'",
        lambda content: content[UPLINK].pop("control/b"),
    ),
    "an extra array": ("keys: .*unknown arrays: 'control/n'", put("control/n", 7)),
    "another slot": (
        "keys: .*unknown arrays: 'momentum/b'",
        lambda content: content[UPLINK].__setitem__("momentum/b", content[UPLINK].pop("control/b")),
    ),
    "another shape": (
        r"shape: uplink\['control/b'\] has shape \(2,\)",
        put("control/b", np.zeros(2, np.float32)),
    ),
    "a single number": ("shape", put("control/w", np.float32(0.0))),
    "another type": ("dtype", put("control/b", np.zeros(3))),
    "integers": ("dtype", put("control/b", np.zeros(3, np.int64))),
    "a NaN": (
        r"not-finite: uplink\['control/b'\]: 1 of 3",
        put("control/b", np.array([0, np.nan, 0], np.float32)),
    ),
    "an infinity": ("not-finite", put("control/b", np.array([0, -np.inf, 0], np.float32))),
    "a huge one": ("norm: the uplink's L2 norm is 101", put("control/b", np.array([0, 101, 0], np.float32))),
    "a NaN in a stack": ("not-finite", row(math.nan)),
    "a huge one in a stack": ("norm", row(1e30)),
    "a third record": ("records", lambda content: content.__setitem__("more", record(control()))),
    "what the server told": ("records", lambda content: content.__setitem__(SERVER, record(control()))),
    "no model": ("records", lambda content: content.pop("arrays")),
    "a broken model": ("keys", lambda content: content["arrays"].pop("b")),
    "bytes that lie": ("dtype", lambda content: setattr(content[UPLINK]["control/b"], "data", b"x" * 140)),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_uplink_is_turned_away(what: str) -> None:
    expected, mutate = MALFORMED[what]
    scene, content = Scene(), answer()
    mutate(content)
    good, bad = scene.judge(answer(stacked=True), content)
    assert not good.has_error() and bad.has_error()
    assert re.match(expected, scene.told), scene.told


@pytest.mark.parametrize(("value", "passes"), [(33.0, True), (34.0, False)])
def test_the_bound_holds_for_the_uplink_as_a_whole(value: float, passes: bool) -> None:
    """Nine numbers of 33 have the norm 99, of 34 one of 102; the limit is 100."""
    content = answer()
    content[UPLINK] = record(control(value))
    (reply,) = Scene().judge(content)
    assert reply.has_error() is not passes


def test_without_a_bound_infinity_is_still_no_number() -> None:
    content = answer()
    put("control/b", np.array([0, np.inf, 0], np.float32))(content)
    scene = Scene(max_norm=math.inf)
    scene.judge(content)
    assert scene.told.startswith("not-finite")


def test_a_rule_that_is_told_something_and_sends_nothing() -> None:
    scene, content = Scene(uplinks=()), answer()
    scene.judge(content)
    assert scene.told.startswith("records")
    del content[UPLINK]
    (reply,) = scene.judge(content)
    assert not reply.has_error()


def test_to_flowers_own_strategies_the_names_mean_nothing() -> None:
    """They may send two records of any names, and get both back."""
    ask = RecordDict({SERVER: record(MODEL), UPLINK: record(control())})
    content = RecordDict({**ask, "metrics": MetricRecord({"num-examples": 1})})
    (reply,) = Scene(uplinks=None).judge(content, ask=ask)
    assert not reply.has_error()


def test_of_two_namings_the_servers_counts() -> None:
    """One client calls its model `model`, one `arrays`, as the server does: the first is in the minority."""
    scene = Scene()
    sent = RecordDict({"arrays": record(MODEL), SERVER: record(control())})
    contents = [answer(), answer()]
    contents[0]["model"] = contents[0].pop("arrays")
    messages = [Message(sent, dst_node_id=node, message_type="train") for node in (2, 3)]
    pairs = zip(contents, messages, strict=True)
    scene.guard.push_messages(messages)
    scene.box.replies = [Message(content, reply_to=message) for content, message in pairs]
    replies = scene.guard.pull_messages([])
    asked = {message.metadata.message_id: message for message in messages}
    judged = scene.guard._agreeing(asked, replies)
    assert [reply.has_error() for reply in judged] == [True, False]


def test_an_uplink_is_named_after_the_model() -> None:
    with pytest.raises(UsageError, match="uplinks 'control/x'; expected slot/parameter of 'b', 'n', 'w'"):
        Scene(uplinks=("control/x",)).judge(answer())


@pytest.mark.parametrize("steps", [0, -3.0, 0.5, math.nan, math.inf, 1e30, [5]])
def test_steps_that_nobody_can_take_are_turned_away(steps: Any) -> None:
    """FedNova and the momenta divide by them; to Flower's own strategies the name means nothing."""
    scene = Scene()
    lied, told = answer(), answer()
    told.metric_records["metrics"]["steps"] = 5
    lied.metric_records["metrics"]["steps"] = steps
    (reply,) = scene.judge(lied)
    assert reply.has_error() and scene.told.startswith("steps: steps is ")
    assert not Scene().judge(told)[0].has_error()
    flowers = Scene(uplinks=None)
    del lied[UPLINK]
    asked = RecordDict({"arrays": record(MODEL), "config": ConfigRecord()})
    assert not flowers.judge(lied, ask=asked)[0].has_error()
