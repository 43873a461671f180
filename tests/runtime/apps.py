"""Flower apps as a stranger would write them, for the runtime's tests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedlab.runtime import Executor, SimulationGrid


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


def squares_app(mods: Sequence[Mod] = ()) -> ClientApp:
    """Client p adds p² + 1 to the received weights, training behind `mods`; leaves its message as it is."""
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        record = ArrayRecord()
        for name, array in message.content["arrays"].items():
            record[name] = Array(array.numpy() + partition**2 + 1)
        config = message.content["config"]
        metrics = {"num-examples": 1, "train-loss": 1.0, "mu": float(config.get("proximal-mu", 0.0))}
        return Message(RecordDict({"arrays": record, "metrics": MetricRecord(metrics)}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = {"num-examples": 1, "w": float(message.content["arrays"]["w"].numpy()[0])}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    return app


def tree_app() -> ClientApp:
    """Client p grows one tree that says only whose it is: the skeleton of an XGBoost model in JSON."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        tree = {"owner": int(context.node_config["partition-id"]), "id": 0}
        model = {
            "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
            "iteration_indptr": [0, 1],
            "tree_info": [0],
            "trees": [tree],
        }
        text = json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()
        content = RecordDict(
            {
                "arrays": ArrayRecord([np.frombuffer(text, dtype=np.uint8)]),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return app


def trees(arrays: ArrayRecord) -> list[int]:
    """Whose the trees of such a model are, in order."""
    model = json.loads(arrays["0"].numpy().tobytes())["learner"]["gradient_booster"]["model"]
    return [tree["owner"] for tree in model["trees"]]


def ask(grid: SimulationGrid, kind: str, **config: Any) -> list[Message]:
    """One message to each node; the replies in the order of the nodes."""
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))}), "config": ConfigRecord(config)})
    return grid.send_and_receive([Message(content, node, kind) for node in grid.get_node_ids()])


@dataclass
class Tagging:
    """A stranger's mod with a name; each leaves its mark on the way in and on the way out."""

    name: str

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        message.content["config"]["trace"] = str(message.content["config"]["trace"]) + self.name
        reply = call_next(message, context)
        reply.content["trace"]["text"] = str(reply.content["trace"]["text"]) + self.name.upper()
        return reply


def busy_app() -> ClientApp:
    """Mods of the app and of a function, actions, queries, state, a lifespan."""
    app = ClientApp(mods=[Tagging("a"), Tagging("b")])

    @app.lifespan()
    def lifespan(context: Context) -> Iterator[None]:
        left = _count(context, "left")
        context.state["life"] = MetricRecord({"entered": _count(context, "entered") + 1, "left": left})
        yield
        context.state["life"]["left"] = left + 1

    def answer(message: Message, context: Context, text: str) -> Message:
        trace = str(message.content["config"]["trace"])
        content = RecordDict({"trace": ConfigRecord({"text": f"{trace}|{text}|"})})
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        context.state["seen"] = ArrayRecord({"sum": Array(_seen(context) + context.node_id)})
        return answer(message, context, "train")

    @app.train("custom", mods=[Tagging("c")])
    def custom(message: Message, context: Context) -> Message:
        return answer(message, context, "custom")

    @app.query("life")
    def life(message: Message, context: Context) -> Message:
        return answer(message, context, f"{_count(context, 'entered')},{_count(context, 'left')}")

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(message, context, f"{_seen(context).item():.0f}")

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, f"{context.node_config['num-partitions']}")

    return app


def _count(context: Context, key: str) -> int:
    found = context.state.metric_records.get("life", MetricRecord())
    return int(found.get(key, 0))  # type: ignore[arg-type]


def _seen(context: Context) -> np.ndarray[Any, Any]:
    found = context.state.array_records.get("seen")
    return found["sum"].numpy() if found else np.zeros(1)


def texts(replies: list[Message]) -> list[str]:
    for reply in replies:
        assert not reply.has_error(), reply.error.reason
    return [str(reply.content["trace"]["text"]) for reply in replies]


def check_busy_app(executor: Executor) -> None:
    """Node ids are 2, 3 and 4; each round of training adds a node's own id to its state."""
    grid = SimulationGrid(busy_app(), 3, executor, chunk=2)
    assert texts(ask(grid, "train", trace="")) == ["ab|train|BA"] * 3
    assert texts(ask(grid, "train", trace="")) == ["ab|train|BA"] * 3
    assert texts(ask(grid, "query", trace="")) == ["ab|4|BA", "ab|6|BA", "ab|8|BA"], "state lasts"
    assert texts(ask(grid, "train.custom", trace="-")) == ["-abc|custom|CBA"] * 3
    assert texts(ask(grid, "evaluate", trace="")) == ["ab|3|BA"] * 3
    assert texts(ask(grid, "query.life", trace="")) == ["ab|6,5|BA"] * 3, (
        "entered for each message, left after"
    )
