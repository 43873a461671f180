"""Apps that break what they run on, for the tests of the Ray side."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.clients.app import CohortApp
from fedlab.runtime.ray.placement import own_device, own_place

Fault = Callable[[Message, int], None]


def faulty_app(fault: Fault) -> ClientApp:
    """Answers the weights plus (partition + 1), after `fault(message, partition)`; says where it ran."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        fault(message, partition)
        weights = message.content["arrays"]["w"].numpy() + partition + 1
        place = own_place()
        where = {
            "pid": os.getpid(),
            "node": place.node,
            "gpus": list(place.gpus),
            "device": str(own_device()),
        }
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(weights)}),
                "metrics": MetricRecord({"num-examples": 1}),
                "where": ConfigRecord(
                    where
                    | {"device": str(own_device()), "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
                ),
            }
        )
        return Message(content, reply_to=message)

    return app


def none(message: Message, partition: int) -> None:
    """No fault."""


def killed(process: int) -> None:
    """Kill a process, and wait for the consequences."""
    os.kill(process, signal.SIGKILL)
    while True:
        signal.pause()


def once(flag: Path, partition: int) -> Fault:
    """The worker of one client is killed, the first time."""

    def fault(message: Message, at: int) -> None:
        if at == partition and not flag.exists():
            flag.touch()
            killed(os.getpid())

    return fault


def always(*partitions: int) -> Fault:
    """These clients kill their worker each time."""

    def fault(message: Message, at: int) -> None:
        if at in partitions:
            killed(os.getpid())

    return fault


def on_node(node: str) -> Fault:
    """Whoever runs on that node takes it down."""

    def fault(message: Message, at: int) -> None:
        if ray.get_runtime_context().get_node_id() == node:
            killed(os.getppid())

    return fault


def runtime_process(name: str) -> Fault:
    """The first client kills a process of Ray itself, "raylet" or "gcs_server"."""

    def fault(message: Message, at: int) -> None:
        raylet = psutil.Process(os.getppid())
        found = [raylet, *raylet.parent().children()]
        killed(next(process.pid for process in found if process.name() == name))

    return fault


def zeros(nodes: range | list[int], size: int = 2) -> list[Message]:
    """One training message per node, all sharing one record of zeros."""
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(size))})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


class KillingCohort(CohortApp):
    """Trains cohorts; kills its worker once, in the middle of the second chunk, if there is a flag."""

    def __init__(self, *arguments: Any, flag: Path | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.flag = flag

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        replies = super().run_cohort(messages, contexts)
        partitions = [int(context.node_config["partition-id"]) for context in contexts]
        if self.flag is not None and 4 in partitions and not self.flag.exists():
            self.flag.touch()
            killed(os.getpid())
        return replies


class KillingThird(CohortApp):
    """Takes its worker down with the third cohort that any of them gets, once."""

    def __init__(self, *arguments: Any, folder: Path, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.folder = folder

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        count = len(list(self.folder.iterdir()))
        if count < 3:
            (self.folder / str(count)).touch()
            if count == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().run_cohort(messages, contexts)


class Starved(ClientApp):
    """Asks for more memory than there is."""

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        torch.empty(2**58)
        return []
