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
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.audit.grids import WrappedGrid, array_record, gather, number, reply_content, tensors
from fedlab.errors import DataError, UsageError
from fedlab_defenses.secure_sum import answers
from fedlab_defenses.secure_sum.answers import Masked
from fedlab_defenses.secure_sum.neighbours import neighbourhoods
from fedlab_defenses.secure_sum.opening import Public, opened
from fedlab_defenses.secure_sum.plan import EXAMPLES, MASKED, RECORD, SETUP, SHARES, STAGE, UNMASK, Plan
from fedlab_defenses.secure_sum.rounds import NotOpened, Round, refused
from fedlab_defenses.secure_sum.vectors import Vectors, decoded

Read = TypeVar("Read")


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
        self._rounds: dict[str, Round] = {}
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
            round = Round({one.metadata.dst_node_id: one for one in training})
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

    def _go(self, round: Round, deadline: float) -> None:
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
                    round.replies[message.metadata.message_id] = refused(message, reason)

    def _agreed(self, round: Round, deadline: float) -> Public:
        """Who is there, with which keys, and what they have sealed for each other."""
        if len(round.messages) > self.plan.capacity:
            raise NotOpened(
                f"{len(round.messages)} clients were asked, but sums of more than {self.plan.capacity} may"
                " overflow; lower levels, or ask fewer"
            )
        public = Public()
        hello = {node: {"you": node} for node in round.messages}
        keys = self._ask(round, SETUP, hello, deadline, lambda _, said: answers.keys(said))
        for node, (letters, masks) in keys.items():
            public.letters[node], public.masks[node] = letters, masks
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
        public.sealed = self._ask(
            round, SHARES, about, deadline, lambda node, said: answers.sealed(said, public.nodes[node])
        )
        self._enough(public.sealed, "shares")
        return public

    def _trained(self, round: Round, public: Public, deadline: float) -> dict[int, Masked]:
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
        masked = self._read(
            replies, lambda node, reply: answers.masked(self.plan, round.messages[node], reply), round.failed
        )
        round.late |= set(alive) - masked.keys() - round.failed.keys()
        kinds = [(one.names, one.cap, tuple(sorted(one.told))) for one in masked.values()]
        usual = max(sorted(set(kinds)), key=kinds.count, default=None)
        for node, kind in zip(list(masked), kinds, strict=True):
            if kind != usual:
                del masked[node]
                round.failed[node] = f"its figures are called {kind}; most others' are {usual}"
        self._enough(masked, "masked vectors")
        return masked

    def _opened(self, round: Round, public: Public, came: Mapping[int, Masked]) -> Vectors:
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
        found = self._ask(round, UNMASK, about, math.inf, lambda _, said: answers.told(said), silent)
        for teller, shares in found.items():
            for node, share in shares.items():
                told.setdefault(node, {})[teller] = share
        try:
            return opened(self.plan, public, {node: one.vectors for node, one in came.items()}, told)
        except DataError as error:
            raise NotOpened(f"the sum was not opened: {error}") from error

    def _reply(self, round: Round, came: Mapping[int, Masked], total: Vectors) -> None:
        """The same mean in the name of each client that is in it, and failures for those that are not."""
        one, message = next(iter(came.values())), next(iter(round.messages.values()))
        before = tensors(message.content.array_records["arrays"])
        if not 0 < int(total.figures[0]) <= one.cap * len(came):
            raise NotOpened(f"weights of {len(came)} clients that add up to {total.figures[0]}: forged")
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
                reply = refused(message, round.failed.get(node, "dropped out of the secure sum"))
            round.replies[message.metadata.message_id] = reply

    def _ask(
        self,
        round: Round,
        stage: str,
        about: Mapping[int, Mapping[str, object]],
        deadline: float,
        read: Callable[[int, ConfigRecord], Read],
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
            replies, lambda node, reply: read(node, reply.content.config_records[RECORD]), noted
        )
        for node in about:
            if node not in found:
                noted.setdefault(node, f"did not answer in time (secagg-plus, stage {stage!r})")
        return found

    def _read(
        self,
        replies: Sequence[Message],
        read: Callable[[int, Message], Read],
        noted: dict[int, str],
    ) -> dict[int, Read]:
        """What replies say, by node; what cannot be read is as good as none, and noted with the reason."""
        found: dict[int, Read] = {}
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
