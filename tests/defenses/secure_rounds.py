"""Rounds of a secure sum with clients that fall out where a test says, on a simulated Grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fedlab_defenses.secure_sum.client import Masking
from fedlab_defenses.secure_sum.plan import MASKED, RECORD, SETUP, SHARES, STAGE, UNMASK, Plan
from fedlab_defenses.secure_sum.quantisation import quantiser
from fedlab_defenses.secure_sum.server import MaskedGrid
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlab import seeds
from fedlab.runtime import SimulationGrid, WrappedGrid, client_of
from fedlab.runtime.arrays import array_record, reply_content, tensors

STAGES = (SETUP, SHARES, MASKED, UNMASK)
MODEL = {
    "weight": torch.linspace(-20.0, 20.0, 6).reshape(2, 3),
    "bias": torch.zeros(3),
    "count": torch.tensor(7),
}
"""Parameters beyond the range of an update, and a counter."""


def update(client: int, size: int = 0) -> dict[str, torch.Tensor]:
    """What a client's training adds to the model."""
    generator = torch.Generator().manual_seed(client)
    drawn = {n: torch.randn(v.shape, generator=generator) for n, v in model(size).items() if n != "count"}
    return {**drawn, "count": torch.tensor(3)}


def model(size: int = 0) -> dict[str, torch.Tensor]:
    return {**MODEL, "weight": torch.zeros(size)} if size else dict(MODEL)


def records(client: int) -> int:
    return 10 * (client + 1)


class FallsOut:
    """A mod by which clients raise at a stage, by client."""

    def __init__(self, when: Mapping[int, str]) -> None:
        self.when = dict(when)

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        stage = message.content.config_records[RECORD][STAGE]
        if self.when.get(int(str(context.node_config["partition-id"]))) == stage:
            raise RuntimeError(f"gone at {stage}")
        return call_next(message, context)


class Spy(WrappedGrid):
    """Keeps every reply of the clients."""

    def __init__(self, grid: Any) -> None:
        super().__init__(grid)
        self.seen: list[Message] = []

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        passed = list(replies)
        self.seen += passed
        return passed

    def masked(self) -> dict[int, np.ndarray]:
        found = {}
        for reply in self.seen:
            if not reply.has_error() and "masked" in reply.content:
                found[client_of(reply.metadata.src_node_id)] = reply.content["masked"]["values"].numpy()
        return found


def plan(clients: int, threshold: int, degree: int | None = None, **numbers: Any) -> Plan:
    about = {"clip": 8.0, "levels": 2**22, "bits": None} | numbers
    return Plan(quantiser(count=clients, **about), threshold, degree, clients)


def federation(
    clients: int,
    plan: Plan,
    when: Mapping[int, str] | None = None,
    *,
    cap: int = 1,
    size: int = 0,
    seed: int | None = 5,
    **grid: Any,
) -> tuple[MaskedGrid, Spy]:
    app = ClientApp(mods=[FallsOut(when or {}), Masking(plan, cap, seed)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(str(context.node_config["partition-id"]))
        before, moved = tensors(message.content.array_records["arrays"]), update(client, size)
        after = {name: value + moved[name] for name, value in before.items()}
        return Message(
            reply_content(array_record(after), {"num-examples": records(client), "train-loss": 0.5 * client}),
            reply_to=message,
        )

    @app.query()
    def query(message: Message, context: Context) -> Message:
        raise AssertionError("the mod answers")

    spy = Spy(SimulationGrid(app, clients))
    return MaskedGrid(spy, plan, lambda round: seeds.numpy_generator(1, round), **grid), spy


def round_of(grid: MaskedGrid, number: int = 1, size: int = 0, **how: Any) -> list[Message]:
    content = RecordDict(
        {"arrays": array_record(model(size)), "config": ConfigRecord({"server-round": number})}
    )
    return grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()], **how)


def good(replies: Sequence[Message]) -> list[int]:
    return sorted(client_of(one.metadata.src_node_id) for one in replies if not one.has_error())


def mean(clients: Sequence[int], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The plain weighted mean of these clients' updates, added to the model."""
    moved = [update(client) for client in clients]
    return {
        name: value
        + sum(w * one[name].double() for w, one in zip(weights, moved, strict=True)) / sum(weights)
        for name, value in MODEL.items()
    }
