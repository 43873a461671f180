"""What a strategy finds in its clients' replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedlab.errors import FedlabError
from fedlab.runtime.arrays import UPLINK

Record = TypeVar("Record", ArrayRecord, MetricRecord)


def only(kind: type[Record], reply: Message, name: str | None = None) -> Record:
    """The reply's record of that name, or else its one record of the kind, whatever the client calls it.

    Raises:
        FedlabError: there is none, or there are several.
    """
    named = reply.content.get(name) if name is not None else None
    if isinstance(named, kind):
        return named
    found = [record for record in reply.content.values() if isinstance(record, kind)]
    if len(found) != 1 or name == UPLINK:
        wanted = f"one called {name!r}" if name == UPLINK else "one"
        raise FedlabError(
            f"node {reply.metadata.src_node_id} sent {len(found)} {kind.__name__}s; expected {wanted}."
            " A guard in front of the strategy turns such replies away (guard.enabled = true)"
        )
    return found[0]


def figures(reply: Message) -> dict[str, float]:
    """The numbers among the metrics that a client sent."""
    record = only(MetricRecord, reply)
    return {name: float(value) for name, value in record.items() if isinstance(value, int | float)}


def averages(metrics: Sequence[dict[str, float]], share: Tensor) -> dict[str, float]:
    """The weighted mean of each figure that every client sent and that is finite."""
    names = set.intersection(*(set(one) for one in metrics)) - {"num-examples"}
    columns = {n: torch.tensor([one[n] for one in metrics], dtype=torch.float64) for n in sorted(names)}
    return {name: float(share @ column) for name, column in columns.items() if finite(column)}


def finite(values: Tensor) -> bool:
    """NaN and infinity survive a sum, which is several times quicker than looking at each number."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def in_vain(reasons: Counter[str]) -> str:
    """Why an asynchronous server gave up a step: what became of its latest replies, none of which counts."""
    what = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{reasons.total()} replies in a row brought nothing: {what}"
