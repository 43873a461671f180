"""A guard that minds some flaws only, for strategies of which nothing is known."""

from __future__ import annotations

import math

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.runtime import SimulationGrid
from fedlab.runtime.guard import GuardedGrid

SENT = {"w": np.ones(3, np.float32)}
RAW = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=SENT["w"].tobytes())
ANSWERS = {
    0: {"w": Array(SENT["w"])},
    1: {"other": Array(SENT["w"])},
    2: {"w": Array(np.ones((2, 2), np.float64))},
    3: {"w": RAW},
    4: {"other": Array(np.array([1.0, math.nan]))},
    5: {"w": RAW, "x": Array(np.array([math.inf], np.float32))},
}


def answers(**settings: object) -> list[str]:
    """What each of the clients gets for an answer: its error's kind, or nothing."""
    app = ClientApp()

    @app.train()
    def train(message, context):  # type: ignore[no-untyped-def]
        content = RecordDict({"arrays": ArrayRecord(dict(ANSWERS[context.node_config["partition-id"]]))})
        content["metrics"] = MetricRecord({f"m{context.node_config['partition-id'] % 2}": 1})
        return Message(content, reply_to=message)

    grid = GuardedGrid(
        SimulationGrid(app, len(ANSWERS)),
        max_norm=math.inf,
        weight=None,
        **settings,  # type: ignore[arg-type]
    )
    arrays = {key: Array(value) for key, value in SENT.items()}
    messages = [
        Message(RecordDict({"arrays": ArrayRecord(arrays)}), dst_node_id=node, message_type="train")
        for node in sorted(grid.get_node_ids())
    ]
    replies = grid.send_and_receive(messages)
    found = sorted(replies, key=lambda one: one.metadata.src_node_id)
    return [one.error.reason.partition(":")[0] if one.has_error() else "" for one in found]


def test_what_is_not_minded_passes_and_what_is_no_number_does_not() -> None:
    assert answers(only=frozenset({"not-finite"})) == ["", "", "", "", "not-finite", "not-finite"]


def test_all_flaws_are_minded_unless_said() -> None:
    assert answers() == ["", "keys", "shape", "dtype", "keys", "keys"]
