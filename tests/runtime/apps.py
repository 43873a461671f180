"""Flower apps as a stranger would write them, for the runtime's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp


def adding_app(fail_on: int | None = None, die_on: int | None = None) -> ClientApp:
    """Adds (partition + 1) to the received weights; keeps a counter; can fail or die on one partition."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if partition == fail_on:
            raise RuntimeError("this client is broken")
        if partition == die_on:
            os.kill(os.getpid(), signal.SIGKILL)
        calls = int(context.state["count"]["n"]) + 1 if "count" in context.state else 1
        context.state["count"] = MetricRecord({"n": calls})
        weights = message.content["arrays"]["w"].numpy() + partition + 1
        message.content["arrays"]["w"] = Array(np.full(2, 1e9))  # an edit that must reach nobody else
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(weights)}),
                "metrics": MetricRecord({"num-examples": 1, "calls": calls, "train-loss": 0.0}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 1, "accuracy": 0.5})}), reply_to=message
        )

    return app


def train_messages(nodes: range | list[int], make: Callable[..., Message] = Message) -> list[Message]:
    """One training message per node, all sharing one record of zeros, as Flower's strategies send them."""
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})})
    return [make(content, dst_node_id=node, message_type="train") for node in nodes]


def weights(reply: Message) -> list[float]:
    return list(reply.content["arrays"]["w"].numpy())
