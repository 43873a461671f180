"""The server's side of a secure sum: a Grid around a Grid, before which a strategy sees sums only.

What a strategy pushes together is a round. When it first asks for replies, the clients of the round agree
on keys, share their secrets, train and send masked vectors. The sum is opened, and a reply is made in the
name of each client that is in it, the same for all: the model moved by the mean, and the mean of the figures.
Any mean of these is the mean of the updates. Guard and tap stand behind it and see nothing else.

A client may drop out at every stage. If fewer than `threshold` are left at any, or too few of the neighbours
of one, nothing is opened, and all replies are failed ones that say why.

A round ends with the last reply, at the deadline, or with so many vectors as make a round where more clients
were asked. Opening comes after it and takes its own time. Nothing is remembered from round to round, so a
resumed run needs nothing from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedlab.audit.grids import WrappedGrid, array_record, gather, number, reply_content, tensors
from fedlab.errors import DataError, UsageError
from fedlab_defenses.secure_sum.neighbours import neighbourhoods
from fedlab_defenses.secure_sum.opening import Public, opened
from fedlab_defenses.secure_sum.plan import EXAMPLES, MASKED, RECORD, SETUP, SHARES, STAGE, UNMASK, Plan
from fedlab_defenses.secure_sum.vectors import Vectors, decoded, sizes

NOT_OPENED = 102
"""Error code of the replies of a round whose sum was not opened."""
Read = TypeVar("Read")


class NotOpened(Exception):
    """Too few are left; the reason, for the replies."""


@dataclass
class _Round:
    """Training messages that were pushed together, by node, and what is known of them."""

    messages: dict[int, Message]
    failed: dict[int, str] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    begun: bool = False
    replies: dict[str, Message] = field(default_factory=dict)

    @property
    def number(self) -> int:
        config = next(iter(self.messages.values())).content.config_records.get("config", ConfigRecord())
        return int(str(config.get("server-round", 0)))


@dataclass(frozen=True)
class _Masked:
    """One client's masked vector, what its figures are called, the cap of its weight, and what is public."""

    vectors: Vectors
    names: tuple[str, ...]
    cap: int
    told: dict[str, float]


class MaskedGrid(WrappedGrid):
    """Hands on sums.

    Args:
        grid: where the clients are, behind `Masking`.
        plan: what was agreed on with them.
        order: by the round's number, what the graph of neighbours is drawn from.
        enough: masked vectors after which a round goes on without the others; None: it waits for all.
        patience: seconds that each stage but training waits for; None: for all.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        order: Callable[[int], np.random.Generator],
        *,
        enough: int | None = None,
        patience: float | None = None,
    ) -> None:
        super().__init__(grid)
        self.plan, self.order, self.enough, self.patience = plan, order, enough, patience
        self._rounds: dict[str, _Round] = {}
        self._count = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; what asks for training waits until its replies are asked for.

        Raises:
            UsageError: two training messages to one client.
        """
        outgoing = list(messages)
        training = [one for one in outgoing if one.metadata.message_type.partition(".")[0] == "train"]
        others = [one for one in outgoing if one not in training]
        if others:
            for message, message_id in zip(others, super().push_messages(others), strict=False):
                number(message, message_id)
        if training:
            round = _Round({one.metadata.dst_node_id: one for one in training})
            if len(round.messages) < len(training):
                raise UsageError("secagg-plus: a client was sent two models of one round; expected one")
            for message in training:
                self._count += 1
                number(message, f"sum-{self._count}")
                self._rounds[message.metadata.message_id] = round
        return [message.metadata.message_id for message in outgoing]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self.pull_until(message_ids, math.inf)

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        asked = list(message_ids)
        mine = [one for one in asked if one in self._rounds]
        others = [one for one in asked if one not in self._rounds]
        for message_id in mine:
            round = self._rounds[message_id]
            if not round.begun:
                round.begun = True
                self._go(round, deadline)
        found = [self._rounds[one].replies.pop(one) for one in mine if one in self._rounds[one].replies]
        for reply in found:
            del self._rounds[reply.metadata.reply_to_message_id]
        return found or (self._clocked.pull_until(others, deadline) if others else [])

    def cancel(self, message_ids: Iterable[str]) -> None:
        super().cancel([one for one in message_ids if self._rounds.pop(one, None) is None])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def _go(self, round: _Round, deadline: float) -> None:
        """The protocol from the first stage to the last; leaves the replies."""
        try:
            public = self._agreed(round, deadline)
            came = self._trained(round, public, deadline)
            total = self._opened(round, public, came)
            self._reply(round, came, total)
        except NotOpened as error:
            for node, message in round.messages.items():
                if node not in round.late:
                    reason = round.failed.get(node, str(error))
                    round.replies[message.metadata.message_id] = _refused(message, reason)

    def _agreed(self, round: _Round, deadline: float) -> Public:
        """Who is there, with which keys, and what they have sealed for each other."""
        if len(round.messages) > self.plan.capacity:
            raise NotOpened(
                f"{len(round.messages)} clients were asked, but sums of more than {self.plan.capacity} may"
                " overflow; lower levels, or ask fewer"
            )
        public = Public()
        hello = {node: {"you": node} for node in round.messages}
        for node, said in self._ask(round, SETUP, hello, deadline, _keys).items():
            public.letters[node], public.masks[node] = said
        self._enough(public.masks, "keys")
        public.nodes = neighbourhoods(list(public.masks), self.plan.degree, self.order(round.number))
        about = {
            node: {
                "nodes": around,
                "letters": [public.letters[one] for one in around],
                "masks": [public.masks[one] for one in around],
            }
            for node, around in public.nodes.items()
        }
        for node, sealed in self._ask(round, SHARES, about, deadline, _sealed).items():
            public.sealed[node] = dict(zip(public.nodes[node], sealed, strict=True))
        self._enough(public.sealed, "shares")
        return public

    def _trained(self, round: _Round, public: Public, deadline: float) -> dict[int, _Masked]:
        """The masked vectors, by node."""
        alive = sorted(public.sealed)
        said = ConfigRecord({STAGE: MASKED, "round": round.number, "alive": alive})
        contents: dict[int, RecordDict] = {}  # the messages of a round share one, mostly
        messages = []
        for node in round.messages:  # in the order in which the strategy sends them
            if node not in public.sealed:
                continue
            message = round.messages[node]
            content = contents.setdefault(id(message.content), RecordDict({**message.content, RECORD: said}))
            messages.append(Message(content, dst_node_id=node, message_type=message.metadata.message_type))
        timeout = None if deadline == math.inf else max(0.0, deadline - self.now)
        replies = gather(
            self._clocked, list(self.grid.push_messages(messages)), timeout=timeout, enough=self.enough
        )
        masked = self._read(round, replies, lambda node, reply: _masked(round.messages[node], reply))
        round.late |= set(alive) - masked.keys() - round.failed.keys()
        kinds = [(one.names, one.cap, tuple(sorted(one.told))) for one in masked.values()]
        usual = max(sorted(set(kinds)), key=kinds.count, default=None)
        for node, kind in zip(list(masked), kinds, strict=True):
            if kind != usual:
                del masked[node]
                round.failed[node] = f"its figures are called {kind}; most others' are {usual}"
        self._enough(masked, "masked vectors")
        return masked

    def _opened(self, round: _Round, public: Public, came: Mapping[int, _Masked]) -> Vectors:
        """The sum, with all masks off."""
        dropped = sorted(public.sealed.keys() - came.keys())
        about = {}
        for node in came:
            senders = [one for one in public.nodes[node] if one != node and one in public.sealed]
            about[node] = {
                "came": sorted(came),
                "dropped": dropped,
                "from": senders,
                "sealed": [public.sealed[one][node] for one in senders],
            }
        told: dict[int, dict[int, bytes]] = {}
        silent: dict[int, str] = {}  # their vectors are in the sum all the same
        for teller, shares in self._ask(round, UNMASK, about, math.inf, _told, silent).items():
            for node, share in shares.items():
                told.setdefault(node, {})[teller] = share
        try:
            return opened(self.plan, public, {node: one.vectors for node, one in came.items()}, told)
        except DataError as error:
            raise NotOpened(f"the sum was not opened: {error}") from error

    def _reply(self, round: _Round, came: Mapping[int, _Masked], total: Vectors) -> None:
        """The same mean in the name of each client that is in it, and failures for those that are not."""
        one, message = next(iter(came.values())), next(iter(round.messages.values()))
        before = tensors(message.content.array_records["arrays"])
        after, figures, weight = decoded(self.plan, total, before, one.names, one.cap)
        if one.cap > 1:
            figures[EXAMPLES] = weight / len(came)
        arrays = array_record(after)
        for node, message in round.messages.items():
            if node in came:
                content = reply_content(arrays, figures | came[node].told)
                reply = Message(content, reply_to=message)
            elif node in round.late:
                continue
            else:
                reply = _refused(message, round.failed.get(node, "dropped out of the secure sum"))
            round.replies[message.metadata.message_id] = reply

    def _ask(
        self,
        round: _Round,
        stage: str,
        about: Mapping[int, Mapping[str, object]],
        deadline: float,
        read: Callable[[ConfigRecord], Read],
        failed: dict[int, str] | None = None,
    ) -> dict[int, Read]:
        """What each client answers; those that fail, or say nothing in time, are noted with the reason."""
        messages = []
        for node, said in about.items():
            record = ConfigRecord({STAGE: stage, "round": round.number, **said})  # type: ignore[dict-item]
            config = ConfigRecord({"server-round": round.number})
            content = RecordDict({RECORD: record, "config": config})
            messages.append(Message(content, dst_node_id=node, message_type="query"))
        limits = [limit for limit in (self.patience, deadline - self.now) if limit is not None]
        timeout = None if min(limits) == math.inf else max(0.0, min(limits))
        replies = gather(self._clocked, list(self.grid.push_messages(messages)), timeout=timeout, enough=None)
        noted = round.failed if failed is None else failed
        found = self._read(
            round, replies, lambda node, reply: read(reply.content.config_records[RECORD]), noted
        )
        for node in about:
            if node not in found:
                noted.setdefault(node, f"did not answer in time (secagg-plus, stage {stage!r})")
        return found

    def _read(
        self,
        round: _Round,
        replies: Sequence[Message],
        read: Callable[[int, Message], Read],
        failed: dict[int, str] | None = None,
    ) -> dict[int, Read]:
        """What replies say, by node; what cannot be read is as good as none."""
        found: dict[int, Read] = {}
        noted = round.failed if failed is None else failed
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                noted[node] = str(reply.error.reason)
                continue
            try:
                found[node] = read(node, reply)
            except Exception as error:  # a stranger's bytes: whatever parsing makes of them
                noted[node] = f"its reply cannot be read: {type(error).__name__}: {str(error)[:200]}"
        return found

    def _enough(self, left: Mapping[int, object], what: str) -> None:
        """Whether enough are left.

        Raises:
            NotOpened: they are not.
        """
        if len(left) < self.plan.threshold:
            raise NotOpened(
                f"the sum was not opened: {what} of {len(left)} clients came; threshold ="
                f" {self.plan.threshold}"
            )


def _refused(message: Message, reason: str) -> Message:
    return Message(Error(NOT_OPENED, reason), reply_to=message)


def _keys(said: ConfigRecord) -> tuple[bytes, bytes]:
    return _bytes(said["letters"], 32), _bytes(said["masks"], 32)


def _sealed(said: ConfigRecord) -> list[bytes]:
    return [_bytes(one) for one in cast(list[object], said["sealed"])]


def _told(said: ConfigRecord) -> dict[int, bytes]:
    nodes, shares = cast(list[int], said["of"]), cast(list[object], said["shares"])
    return {int(node): _bytes(share) for node, share in zip(nodes, shares, strict=True)}


def _bytes(value: object, length: int | None = None) -> bytes:
    if not isinstance(value, bytes) or length not in (None, len(value)):
        wanted = "bytes" if length is None else f"{length} bytes"
        raise DataError(f"a {type(value).__name__}; expected {wanted}")
    return value


def _masked(message: Message, reply: Message) -> _Masked:
    """A masked vector of the length that the model asks for."""
    said, record = reply.content.config_records[RECORD], reply.content.array_records["masked"]
    names = tuple(str(name) for name in cast(list[str], said["names"]))
    values, figures = record["values"].numpy(), record["figures"].numpy()
    expected = sizes(tensors(message.content.array_records["arrays"]), len(names))
    if (len(values), len(figures)) != expected:
        raise DataError(f"masked vectors of {len(values)} and {len(figures)} integers; expected {expected}")
    told = cast(MetricRecord, reply.content["told"])
    public = {name: float(str(value)) for name, value in told.items()}
    return _Masked(Vectors(values, figures), names, int(str(said["cap"])), public)
