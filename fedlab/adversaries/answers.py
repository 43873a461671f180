"""Replies as changes of the parameters, and changes put into replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedlab.errors import FedlabError
from fedlab.runtime import client_of
from fedlab.runtime.arrays import Stack, TensorArray, tensors
from fedlab.runtime.copies import own_records
from fedlab.strategies.deltas import deltas, flatten, unflatten


class Answer(NamedTuple):
    """A training message and what came back."""

    message: Message
    reply: Message

    @property
    def client(self) -> int:
        """Whose it is."""
        return client_of(self.reply.metadata.src_node_id)

    @property
    def round(self) -> int:
        """The round's number; 0 where the server does not say."""
        config = self.message.content.get("config")
        return int(str(config.get("server-round", 0))) if isinstance(config, ConfigRecord) else 0

    @property
    def weight(self) -> float:
        """The records that the client says it holds; 1 where it does not say."""
        records = (one for one in self.reply.content.values() if isinstance(one, MetricRecord))
        return float(str(next(records, MetricRecord()).get("num-examples", 1.0)))

    def before(self, names: Sequence[str]) -> Tensor:
        """(d,) float64: the named parameters as they were sent."""
        return flatten(tensors(_record(self.message.content, names)), names)

    def usable(self, names: Sequence[str]) -> bool:
        """Whether the reply holds the named parameters, in the shapes that were sent, and finite.

        Raises:
            FedlabError: the message does not hold them.
        """
        sent = tensors(_record(self.message.content, names))
        if not sent:
            raise FedlabError(
                f"the server sends no record with all of {', '.join(names)}, which adversaries would replace;"
                " this strategy can be attacked by poisoned records only"
            )
        if not self.reply.has_content():
            return False
        got = tensors(_record(self.reply.content, names))
        return bool(got) and all(
            got[name].shape == sent[name].shape and bool(torch.isfinite(got[name]).all()) for name in names
        )

    def send(self, delta: Tensor, names: Sequence[str]) -> None:
        """Let the reply say that the named parameters changed by `delta` (d,); nothing else of it changes."""
        like = tensors(_record(self.message.content, names))
        changed = own_records(self.reply.content)
        record = _record(changed, names)
        for name, value in unflatten(flatten(like, names) + delta, like, names).items():
            record[name] = TensorArray(Stack(value[None]), 0)
        self.reply.content = changed


def changes(answers: Sequence[Answer], names: Sequence[str]) -> Tensor:
    """(n, d) float64: by how much each client's training moved the named parameters."""
    sent = [_record(one.message.content, names) for one in answers]
    got = [_record(one.reply.content, names) for one in answers]
    if all(record is sent[0] for record in sent):  # the messages of a round share one model, mostly
        (whole,) = deltas(got, tensors(sent[0]), names)
        return whole
    rows = [next(deltas([reply], tensors(model), names)) for reply, model in zip(got, sent, strict=True)]
    return torch.cat(rows)


def _record(content: RecordDict, names: Sequence[str]) -> ArrayRecord:
    """The record that holds the model; an empty one if none does."""
    found = (one for one in content.values() if isinstance(one, ArrayRecord) and set(names) <= one.keys())
    return next(found, ArrayRecord())
