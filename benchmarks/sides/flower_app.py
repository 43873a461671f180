"""Flower ClientApps, written as in Flower's PyTorch quickstart; any Grid can run them.

In a module of their own, so that a worker imports them instead of getting them with every message.
"""

from __future__ import annotations

import functools

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from benchmarks.work import WORKS, Work


@functools.cache
def _data(name: str) -> tuple[Tensor, Tensor]:
    return WORKS[name].data()


def training_app(name: str) -> ClientApp:
    """Trains WORKS[name], one client per message."""
    app, work = ClientApp(), WORKS[name]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        images, labels = _data(name)
        first = int(context.node_config["partition-id"]) * work.records
        mine = slice(first, first + work.records)
        net = work.network()
        net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        _fit(net.train(), work, images[mine], labels[mine])
        content = RecordDict(
            {
                "arrays": ArrayRecord(net.state_dict()),
                "metrics": MetricRecord({"num-examples": work.records}),
            }
        )
        return Message(content, reply_to=message)

    return app


def _fit(net: nn.Module, work: Work, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
    batch = work.batch or work.records
    for _ in range(work.epochs):
        for start in range(0, work.records, batch):
            optimizer.zero_grad()
            outputs = net(images[start : start + batch])
            nn.functional.cross_entropy(outputs, labels[start : start + batch]).backward()
            optimizer.step()


def empty_app() -> ClientApp:
    """Answers with nothing."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return app
