"""A Grid on which some clients do not send what they trained.

It stands in front of the clients and behind the guard, so that an attack has to pass as any other reply
does. Replies of the honest go through untouched. Of an adversary's, the learned parameters are replaced;
its buffers, metrics and whatever else it sends stay as they were trained.

When attackers speak: messages that were pushed together are a round, and attackers answer last, once
everything else is in or the deadline is there, in view of all honest updates that came. Where a round goes on
with the first replies that come (`wait = False`), to speak last would be not to be heard: there they answer
when their own training is done, in view of what has come by then.

Nothing is remembered from round to round, so a resumed run needs nothing from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedlab import seeds
from fedlab.adversaries.contract import Scene, crafted
from fedlab.adversaries.groups import Group
from fedlab.runtime import WrappedGrid, client_of
from fedlab.runtime.arrays import Stack, TensorArray, tensors
from fedlab.runtime.copies import own_records
from fedlab.runtime.wrapped import gather
from fedlab.strategies.deltas import deltas, flatten, unflatten
from fedlab.tasks import State


@dataclass
class _Round:
    """Training messages that were pushed together, by id those without a reply, and what has come."""

    waiting: dict[str, Message]
    honest: list[Message] = field(default_factory=list)
    held: dict[str, Message] = field(default_factory=dict)
    message: Message | None = None

    def close(self, message_id: str) -> None:
        """The message has its answer, or needs none any more."""
        self.message = self.waiting.pop(message_id, self.message)


class AdversarialGrid(WrappedGrid):
    """Replaces what the clients of `groups` send.

    Args:
        grid: any Flower Grid, simulated or deployed.
        parameters: names of the learned tensors that travel.
        seed: of what the attackers draw.
        wait: whether attackers answer last; see above.
    """

    def __init__(
        self,
        grid: Grid,
        groups: Sequence[Group],
        parameters: Sequence[str],
        seed: int,
        *,
        wait: bool = True,
    ) -> None:
        super().__init__(grid)
        self.groups, self.parameters, self.seed, self.wait = tuple(groups), tuple(parameters), seed, wait
        self._disloyal = {client for group in groups for client in group.clients}
        self._crafting = {client for group in groups if group.crafts for client in group.clients}
        self._rounds: dict[str, _Round] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._pulled(list(message_ids), lambda ids: list(self.grid.pull_messages(ids)))

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        asked = list(message_ids)
        passed = self._pulled(asked, lambda ids: self._clocked.pull_until(ids, deadline))
        return passed or self._released(asked)  # the deadline is there

    def _pulled(self, asked: Sequence[str], pull: Callable[[list[str]], list[Message]]) -> list[Message]:
        """What passes on next of the replies to those asked; [] when `pull` brings nothing more."""
        while outside := [one for one in asked if not self._holds(one)]:
            arrived = pull(outside)
            passed = self._arrived(arrived)
            if passed or not arrived:
                return passed
        return self._released(asked)  # there is nothing else to wait for

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def cancel(self, message_ids: Iterable[str]) -> None:
        forgotten = list(message_ids)
        super().cancel(forgotten)
        for message_id in forgotten:
            round = self._rounds.pop(message_id, None)
            if round is not None:
                round.close(message_id)
                round.held.pop(message_id, None)

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        training = {
            message_id: message
            for message_id, message in zip(ids, messages, strict=True)
            if message.metadata.message_type.partition(".")[0] == "train"
        }
        asked = {client_of(message.metadata.dst_node_id) for message in training.values()}
        if asked & self._crafting:
            self._rounds |= dict.fromkeys(training, _Round(training))

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        arrived, complete = list(replies), []
        for reply in arrived:
            message_id = reply.metadata.reply_to_message_id
            round = self._rounds.get(message_id)
            if round is None or message_id not in round.waiting:
                continue
            client = client_of(reply.metadata.src_node_id)
            usable = self._usable(round.waiting[message_id], reply)
            round.close(message_id)
            if client in self._crafting and usable:
                round.held[message_id] = reply
            else:
                del self._rounds[message_id]
                if usable and client not in self._disloyal:
                    round.honest.append(reply)
            if not (self.wait and round.waiting):
                complete.append(round)
        released = [one for round in complete for one in self._answered(round)]
        here = {id(reply) for reply in arrived}
        passed = [one for one in arrived if one.metadata.reply_to_message_id not in self._rounds]
        return passed + [one for one in released if id(one) not in here]

    def _usable(self, message: Message, reply: Message) -> bool:
        """Whether it is a finite update of the model that was sent; others are for the guard to judge."""
        if not reply.has_content():
            return False
        sent, answer = self._model(message.content), self._model(reply.content)
        return all(
            name in sent
            and name in answer
            and answer[name].shape == sent[name].shape
            and bool(torch.isfinite(answer[name]).all())
            for name in self.parameters
        )

    def _holds(self, message_id: str) -> bool:
        """Whether the reply is here, and held back."""
        return message_id in self._rounds and message_id in self._rounds[message_id].held

    def _released(self, asked: Sequence[str]) -> list[Message]:
        """The answers of the attackers among those asked, in view of what has come."""
        passed: list[Message] = []
        for message_id in asked:
            if self._holds(message_id):
                passed += self._answered(self._rounds[message_id])
        return passed

    def _answered(self, round: _Round) -> list[Message]:
        """The replies that were held back, with what each group sends; they are held no longer."""
        held = list(round.held.values())
        round.held.clear()
        for reply in held:
            del self._rounds[reply.metadata.reply_to_message_id]
        if not held or round.message is None:
            return held
        before = self._model(round.message.content)
        for group in self.groups:
            own = [one for one in held if client_of(one.metadata.src_node_id) in group.clients]
            if own:
                self._replace(group, round, own, before)
        return held

    def _replace(self, group: Group, round: _Round, own: list[Message], before: State) -> None:
        """Put what the group crafts into its replies."""
        own.sort(key=lambda reply: reply.metadata.src_node_id)
        others = sorted(round.honest, key=lambda reply: reply.metadata.src_node_id)
        number = _round_of(round.message)
        scene = Scene(
            own=self._deltas(own, before),
            honest=self._deltas(others, before),
            weights=_weights(own),
            honest_weights=_weights(others),
            clients=tuple(client_of(one.metadata.src_node_id) for one in own),
            honest_clients=tuple(client_of(one.metadata.src_node_id) for one in others),
            before=flatten(before, self.parameters),
            round=number,
            generator=seeds.torch_generator(
                self.seed, "adversary", group.label, number, client_of(own[0].metadata.src_node_id)
            ),
        )
        for reply, delta in zip(own, crafted(group.adversary, scene), strict=True):
            after = unflatten(scene.before + delta, before, self.parameters)
            reply.content = _with(reply.content, after)

    def _deltas(self, replies: Sequence[Message], before: State) -> Tensor:
        """(n, d) float64."""
        records = [_record(one.content, self.parameters) for one in replies]
        if not records:
            return torch.empty(0, sum(before[name].numel() for name in self.parameters), dtype=torch.float64)
        (whole,) = deltas(records, before, self.parameters)
        return whole

    def _model(self, content: RecordDict) -> State:
        return tensors(_record(content, self.parameters))


def _record(content: RecordDict, names: Sequence[str]) -> ArrayRecord:
    """The record that holds the model; an empty one if none does."""
    found = (one for one in content.values() if isinstance(one, ArrayRecord) and set(names) <= one.keys())
    return next(found, ArrayRecord())


def _with(content: RecordDict, parameters: State) -> RecordDict:
    """The content with other parameters, in containers of its own."""
    changed = own_records(content)
    model = _record(changed, list(parameters))
    for name, value in parameters.items():
        model[name] = TensorArray(Stack(value[None]), 0)
    return changed


def _weights(replies: Sequence[Message]) -> Tensor:
    """(n,) float64: the records that each client says it holds; 1 where it does not say."""
    told = []
    for reply in replies:
        records = (one for one in reply.content.values() if isinstance(one, MetricRecord))
        metrics = next(records, MetricRecord())
        told.append(float(str(metrics.get("num-examples", 1.0))))
    return torch.tensor(told, dtype=torch.float64)


def _round_of(message: Message | None) -> int:
    config = message.content.get("config") if message is not None else None
    return int(str(config["server-round"])) if isinstance(config, ConfigRecord) else 0
