"""The update firewall: a Grid around a Grid that turns malformed replies away, one by one.

Flower 1.41 averages whatever arrives: NaN into the model, one number broadcast onto a layer, minus
nine examples; and one client with a wrong key ends the whole run. Behind this Grid a strategy only
meets replies that fit the message that they answer (`fedlab.runtime.guard.flaws` has the rules). A rejected
reply becomes a failed one in the client's name, which every Flower strategy skips; replies that
nobody waits for (duplicate, late, from a stranger) are dropped.

A round with fewer valid replies than the quorum gets none, and so leaves the model as it was. That and
the agreement between clients (Flower's strategies end the run when the metrics of two clients differ in
name) need the whole round: they hold in `send_and_receive`, not in single pulls.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.errors import UsageError
from fedlab.runtime.arrays import SERVER
from fedlab.runtime.copies import Identity, identity, own_arrays
from fedlab.runtime.guard.declared import Flaw, Kind
from fedlab.runtime.guard.flaws import (
    Layout,
    Sent,
    differences,
    layout,
    steps_flaw,
    update_flaw,
    values_flaw,
    weight_flaw,
)
from fedlab.runtime.wrapped import WrappedGrid, gather

Rejected = Callable[[Message | None, Message, Kind, str], None]
"""Called with (message or None if unknown, reply, kind, reason)."""

REJECTED = 101
"""Error code of the failed replies that the guard puts in the place of others."""
REMEMBERED = 10_000
"""Closed messages whose late and duplicate replies are still told from a stranger's."""
UNKNOWN = {
    "duplicate": "was answered already",
    "late": "is no longer waited for",
    "foreign": "is none that was sent, or was answered long ago",
}


class _Open(NamedTuple):
    """A message under way, and what its answer is measured against (None if it is not training)."""

    message: Message
    sent: Sent | None


SURPLUS = Flaw("surplus", "valid, but enough others had come")


class GuardedGrid(WrappedGrid):
    """Passes on valid replies untouched, and the others as failed ones.

    Args:
        grid: any Flower Grid, simulated or deployed.
        max_norm: the largest L2 norm of an update: the change of all floating-point arrays together.
        quorum: valid training replies that a round needs.
        weight: the metric by which the strategy weighs replies (`weighted_by_key` of flwr's strategies),
            checked in training and evaluation replies; None if it uses none.
        uplinks: for strategies that send clients more than a model (a record "server") and hear more from
            them than one (a record "uplink"): the arrays of that record, as `slot/parameter`. They may be
            none; None is for Flower's own strategies, to which those names mean nothing.
        rejected: hears of each reply that is turned away; one of the kind "quorum" is valid.
        only: kinds of flaws in a reply for which it is turned away; all unless given. For strategies of which
            nothing is known: Flower's own take any arrays, if all clients name them alike.

    Raises:
        UsageError: max_norm or quorum out of range.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        max_norm: float = 1e6,
        quorum: int = 1,
        weight: str | None = "num-examples",
        uplinks: Sequence[str] | None = None,
        rejected: Rejected | None = None,
        only: Collection[Kind] | None = None,
    ) -> None:
        super().__init__(grid)
        if not max_norm > 0.0:
            raise UsageError(f"max_norm must be > 0, got {max_norm}")
        if quorum < 1:
            raise UsageError(f"a quorum must be >= 1, got {quorum}")
        self.max_norm, self.quorum, self.weight, self.rejected = max_norm, quorum, weight, rejected
        self.uplinks, self.only = uplinks, only
        self._open: dict[str, _Open] = {}
        self._closed: OrderedDict[str, Kind] = OrderedDict()
        self._types: dict[tuple[str, str], frozenset[str]] = {}
        self._latest: tuple[tuple[tuple[str, Identity], ...], list[ArrayRecord], Sent] | None = None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """Push, then wait for all replies, for `enough` valid ones, or for `timeout` seconds."""
        outgoing = list(messages)
        ids = self.push_messages(outgoing)
        asked = {message.metadata.message_id: message for message in outgoing}

        def surplus(reply: Message) -> None:
            if not reply.has_error():
                self._tell(asked[reply.metadata.reply_to_message_id], reply, SURPLUS)

        replies = gather(self, ids, timeout=timeout, enough=enough, surplus=surplus)
        return self._with_quorum(asked, self._agreeing(asked, replies))

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Replies that come from now on are late."""
        forgotten = list(message_ids)
        super().cancel(forgotten)
        for message_id in forgotten:
            self._close(message_id, "late")

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        seen: dict[tuple[int, ...], Sent] = {}  # the messages of a round share one model
        for message_id, message in zip(ids, messages, strict=True):
            sent = None
            if _category(message) == "train":
                key = tuple(id(record) for record in message.content.values())
                sent = seen.get(key)
                if sent is None:
                    sent = seen[key] = self._measure(message.content)
            self._open[message_id] = _Open(message, sent)

    def _measure(self, content: RecordDict) -> Sent:
        """What answers are measured against; a server without rounds sends the same arrays one by one."""
        arrays = {name: one for name, one in content.items() if isinstance(one, ArrayRecord)}
        key = tuple((name, identity(record)) for name, record in arrays.items())
        if self._latest is None or self._latest[0] != key:
            kept = [own_arrays(record) for record in arrays.values()]  # so that the identities stay theirs
            self._latest = key, kept, Sent(content, self._types, self.uplinks)
        return self._latest[2]

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        passed = []
        for reply in replies:
            opened = self._claimed(reply)
            if opened is None:
                continue
            message, sent = opened
            if reply.has_error():
                passed.append(_in_its_name(message, reply))
                continue
            flaw = self._flaw(message, sent, reply)
            passed.append(reply if flaw is None else self._turned_away(message, reply, flaw))
        return passed

    def _claimed(self, reply: Message) -> _Open | None:
        """The message that `reply` answers, now closed; None for a reply that is dropped."""
        message_id = reply.metadata.reply_to_message_id
        opened = self._open.get(message_id)
        if opened is None:
            kind = self._closed.get(message_id, "foreign")
            self._tell(None, reply, Flaw(kind, f"message {message_id[:40]!r} {UNKNOWN[kind]}"))
            return None
        if not self._expected(opened.message, reply):
            return None
        del self._open[message_id]
        self._close(message_id, "duplicate")
        return opened

    def _expected(self, message: Message, reply: Message) -> bool:
        """Whether the reply comes from the node that was asked, and is of the kind that was asked for."""
        asked, given = message.metadata, reply.metadata
        if (
            given.src_node_id == asked.dst_node_id
            and given.message_type == asked.message_type
            and given.run_id == asked.run_id
        ):
            return True
        if reply.has_error() and given.src_node_id == given.dst_node_id:
            return True  # the server answers itself for a node that it cannot reach
        wrong = f"a {given.message_type} reply of node {given.src_node_id} in run {given.run_id}"
        wrong += f"; expected {asked.message_type} of node {asked.dst_node_id} in run {asked.run_id}"
        self._tell(message, reply, Flaw("foreign", wrong))
        return False

    def _flaw(self, message: Message, sent: Sent | None, reply: Message) -> Flaw | None:
        """What is wrong with an answer; one to a query may hold anything."""
        if not reply.has_content():
            return Flaw("records", "the reply has neither content nor an error")
        found = None
        if sent is not None:
            found = update_flaw(sent, reply.content, max_norm=self.max_norm)
            if found is not None and not self._minded(found.kind):
                found = values_flaw(reply.content)
        if found is None and self.weight is not None and _category(message) != "query":
            found = weight_flaw(reply.content, self.weight)
            if found is None and sent is not None and self.uplinks is not None:
                found = steps_flaw(reply.content)
        return found if found is not None and self._minded(found.kind) else None

    def _minded(self, kind: Kind) -> bool:
        return self.only is None or kind in self.only

    def _agreeing(self, asked: dict[str, Message], replies: list[Message]) -> list[Message]:
        """Turn away whose records and metrics are not named as those of most others; of as many, as those
        that call the arrays what the server calls them; then, as those of the lowest node."""
        if not self._minded("keys"):
            return replies
        groups: dict[str, dict[int, Layout]] = {}
        for index, reply in enumerate(replies):
            if not reply.has_error() and _category(reply) != "query":
                groups.setdefault(reply.metadata.message_type, {})[index] = layout(reply.content)
        agreeing = list(replies)
        for layouts in groups.values():
            counts = Counter(layouts.values())
            order = sorted(layouts, key=lambda index: replies[index].metadata.src_node_id)

            def standing(
                index: int, layouts: dict[int, Layout] = layouts, counts: Counter[Layout] = counts
            ) -> tuple[int, bool]:
                message = asked[replies[index].metadata.reply_to_message_id]
                return counts[layouts[index]], layout(message.content) - {(SERVER, "")} <= layouts[index]

            usual = layouts[max(order, key=standing)]
            for index, mine in layouts.items():
                if mine != usual:
                    reason = f"not named as in {counts[usual]} other replies: {differences(mine, usual)}"
                    message = asked[replies[index].metadata.reply_to_message_id]
                    agreeing[index] = self._turned_away(message, replies[index], Flaw("keys", reason))
        return agreeing

    def _with_quorum(self, asked: dict[str, Message], replies: list[Message]) -> list[Message]:
        """The replies, or failed ones where too few are valid."""
        training = [index for index, reply in enumerate(replies) if _category(reply) == "train"]
        valid = [index for index in training if not replies[index].has_error()]
        if len(valid) >= self.quorum:
            return replies
        flaw = Flaw("quorum", f"{len(valid)} of {self.quorum} valid replies")
        for index in valid:
            message = asked[replies[index].metadata.reply_to_message_id]
            replies[index] = self._turned_away(message, replies[index], flaw)
        return replies

    def _turned_away(self, message: Message, reply: Message, flaw: Flaw) -> Message:
        """A failed reply in the client's name."""
        self._tell(message, reply, flaw)
        return Message(Error(REJECTED, f"{flaw.kind}: {flaw.reason}"), reply_to=message)

    def _tell(self, message: Message | None, reply: Message, flaw: Flaw) -> None:
        if self.rejected is not None:
            self.rejected(message, reply, flaw.kind, flaw.reason)

    def _close(self, message_id: str, kind: Kind) -> None:
        """From now on a reply to this message is one of `kind`."""
        self._open.pop(message_id, None)
        self._closed[message_id] = kind
        if len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)


def _category(message: Message) -> str:
    return message.metadata.message_type.partition(".")[0]


def _in_its_name(message: Message, reply: Message) -> Message:
    """`reply`, or the same failure as the asked node's own where the server's side reported it."""
    if reply.metadata.src_node_id == message.metadata.dst_node_id:
        return reply
    return Message(reply.error, reply_to=message)
