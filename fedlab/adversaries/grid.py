"""A Grid on which some clients do not send what they trained.

It stands in front of the clients and behind the guard, so that an attack has to pass as any other reply
does. Replies of the honest go through untouched. Of an adversary's, the learned parameters are replaced;
its buffers, metrics and whatever else it sends stay as they were trained.

When attackers speak: messages that were pushed together are a round, and attackers answer last, once
everything else is in or the deadline is there, in view of all honest updates that came. Where a round goes on
with the first replies that come (`wait = False`), to speak last would be not to be heard: there they answer
when their own training is done, in view of what has come by then. A server that has no rounds (`apart`) hears
each attacker when its training is done, in view of what arrives at the same moment.

Nothing is remembered from round to round, so a resumed run needs nothing from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from fedlab import seeds
from fedlab.adversaries.answers import Answer, changes
from fedlab.adversaries.contract import Scene, crafted
from fedlab.adversaries.groups import Group
from fedlab.runtime import WrappedGrid, client_of
from fedlab.runtime.wrapped import gather


@dataclass
class _Round:
    """Training messages that were pushed together: by id those without a reply, and what has come."""

    waiting: dict[str, Message]
    honest: list[Answer] = field(default_factory=list)
    held: dict[str, Answer] = field(default_factory=dict)


class AdversarialGrid(WrappedGrid):
    """Replaces what the clients of `groups` send.

    Args:
        grid: any Flower Grid, simulated or deployed.
        parameters: names of the learned tensors that travel.
        seed: of what the attackers draw.
        wait: whether attackers answer last; see above.
        apart: whether what is sent together is no round; see above.
    """

    def __init__(
        self,
        grid: Grid,
        groups: Sequence[Group],
        parameters: Sequence[str],
        seed: int,
        *,
        wait: bool = True,
        apart: bool = False,
    ) -> None:
        super().__init__(grid)
        self.groups, self.parameters, self.seed = tuple(groups), tuple(parameters), seed
        self.wait, self.apart = wait and not apart, apart
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
                round.waiting.pop(message_id, None)
                round.held.pop(message_id, None)

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        training = {
            message_id: message
            for message_id, message in zip(ids, messages, strict=True)
            if message.metadata.message_type.partition(".")[0] == "train"
        }
        if self.apart:
            self._rounds |= {message_id: _Round({message_id: one}) for message_id, one in training.items()}
            return
        asked = {client_of(message.metadata.dst_node_id) for message in training.values()}
        if asked & self._crafting:
            self._rounds |= dict.fromkeys(training, _Round(training))

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        arrived, complete = list(replies), []
        moment = _Round({})
        for reply in arrived:
            message_id = reply.metadata.reply_to_message_id
            round = self._rounds.get(message_id)
            if round is None or message_id not in round.waiting:
                continue
            answer = Answer(round.waiting.pop(message_id), reply)
            usable = answer.usable(self.parameters)
            round = moment if self.apart else round
            if usable and answer.client in self._crafting:
                round.held[message_id] = answer
            else:
                del self._rounds[message_id]
                if usable and answer.client not in self._disloyal:
                    round.honest.append(answer)
            if not (self.wait and round.waiting):
                complete.append(round)
        released = [one for round in complete for one in self._answered(round)]
        here = {id(reply) for reply in arrived}
        passed = [one for one in arrived if one.metadata.reply_to_message_id not in self._rounds]
        return passed + [one for one in released if id(one) not in here]

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
        held = sorted(round.held.values(), key=lambda answer: answer.client)
        for message_id in round.held:
            del self._rounds[message_id]
        round.held.clear()
        honest = sorted(round.honest, key=lambda answer: answer.client)
        for group in self.groups:
            own = [answer for answer in held if answer.client in group.clients]
            if own:
                self._attack(group, own, honest)
        return [answer.reply for answer in held]

    def _attack(self, group: Group, own: Sequence[Answer], honest: Sequence[Answer]) -> None:
        """Put what the group crafts into its replies."""
        names, first = self.parameters, own[0]
        mine, before = changes(own, names), first.before(names)
        scene = Scene(
            own=mine,
            honest=changes(honest, names) if honest else mine.new_empty(0, len(before)),
            weights=torch.tensor([one.weight for one in own], dtype=torch.float64),
            honest_weights=torch.tensor([one.weight for one in honest], dtype=torch.float64),
            clients=tuple(one.client for one in own),
            honest_clients=tuple(one.client for one in honest),
            before=before,
            round=first.round,
            generator=seeds.torch_generator(self.seed, "adversary", group.label, first.round, first.client),
        )
        for answer, delta in zip(own, crafted(group.adversary, scene), strict=True):
            answer.send(delta, names)
