"""A local rule at work in somebody else's clients: at each step of their optimizer, and on what they send.

A visit is one training message to one client. It begins as `LocalRule.start` does, with the arrays of the
message; `finish` gets them and those of the reply, and what it sends goes into the reply's place. What a
client remembers is kept here between its visits. Draws come from the seed tree, by (client, visit, step).

Where the rule steps in another direction than the gradient, that of each step is computed anew from the
recorded batch, and put in the place of the gradients that the app computed: of the mean cross entropy of the
batch alone. A penalty or a clip of the app's own is not in it, masks of dropout are drawn anew, and a short
last batch counts by its own size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from torch import nn

from fedlab import seeds
from fedlab.apps.architecture import PREFIX, unwrapped
from fedlab.apps.contract import Step
from fedlab.apps.defended.probing import nominal
from fedlab.apps.defended.stepping import Stepping
from fedlab.apps.grids import is_training
from fedlab.apps.meaning import MEANINGS, WEIGHTS, as_answer
from fedlab.apps.naming import match
from fedlab.clients.rules import Carry, LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import State

Call = Callable[[Message, Context], Message]
Places = dict[str, tuple[ArrayRecord, str]]


@dataclass
class _Visit:
    """One training message to one client.

    Attributes:
        place: what its draws depend on; anchor: what was sent; step: how many were taken.
    """

    place: tuple[int, int]
    anchor: State
    carry: Carry
    draws: State
    step: int = 0


@dataclass
class RuleInClients:
    """A local rule around the clients of an app; one message after the other.

    Args:
        name: of the defense, for messages.
        network: as clients have it; None if no torch network was seen, and arrays are taken as they come.
        stepping: how a step's direction is found; None if the rule leaves steps alone.
        rate: the clients' learning rate.
        seed: of its draws.
        meaning: of the arrays of a reply, a key of `fedlab.apps.meaning.MEANINGS`.

    Attributes:
        refused: why it could not act, the first time that it could not.
        steps: how many it changed; updates: how many it saw.
    """

    name: str
    rule: LocalRule
    network: nn.Module | None
    stepping: Stepping | None
    rate: float
    seed: int
    meaning: str = WEIGHTS
    refused: str = ""
    steps: int = 0
    updates: int = 0
    _memories: dict[int, State] = field(default_factory=dict)
    _visits: dict[int, int] = field(default_factory=dict)
    _visit: _Visit | None = None

    def mod(self, message: Message, context: Context, call_next: Call) -> Message:
        """A Flower mod, the nearest to the app."""
        if not is_training(message) or not _arrays(message.content):
            return call_next(message, context)
        client = int(context.node_config["partition-id"])
        before = {key: record[name].numpy() for key, (record, name) in _arrays(message.content).items()}
        names = self._names(before)
        self._visit = visit = self._begun(client, {names[key]: before[key] for key in names})
        try:
            reply = call_next(message, context)
        finally:
            self._visit = None
        if not reply.has_content():
            return reply
        places = _arrays(reply.content)
        missing = [key for key in names if key not in places]
        if missing:
            raise self._refusal(f"a reply has no array {missing[0]}, which was sent")
        after = {key: record[name].numpy() for key, (record, name) in places.items()}
        weights = MEANINGS[self.meaning]
        trained = {name: weights(before[key], after[key]) for key, name in names.items()}
        sent = self._finished(client, visit, trained)
        for key, (record, name) in places.items():
            value = after[key]
            if key in names:
                moved = sent[names[key]].numpy().reshape(value.shape)
                value = as_answer(before[key], moved, self.meaning).astype(value.dtype)
            elif not self.rule.shares_buffers and key in before:
                value = as_answer(before[key], before[key], self.meaning)
            if not np.array_equal(value, after[key]):
                record[name] = Array(value)
        self.updates += 1
        return reply

    def on_step(self, optimizer: torch.optim.Optimizer, network: nn.Module | None, step: Step | None) -> None:
        """Put the rule's direction in the place of the gradients; an `OnStep` of the recorder."""
        if self.stepping is None:
            return
        visit = self._visit
        if visit is None or network is None or step is None or step.targets is None:
            raise self._refusal("the batch of a step, or its labels, could not be recorded")
        generator = seeds.torch_generator(self.seed, "step", *visit.place, visit.step)
        try:
            moved = self.stepping.direction(self.rule, unwrapped(network), step, visit.carry, generator)
        except UsageError as error:
            raise self._refusal(str(error)) from error
        except Exception as error:  # a network that cannot be mapped over records, as a rule
            raise self._refusal(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}") from error
        visit.carry, visit.step = moved.carry, visit.step + 1
        self._put(optimizer, unwrapped(network), moved.direction)
        self.steps += 1

    def _put(self, optimizer: torch.optim.Optimizer, network: nn.Module, direction: State) -> None:
        names = {id(value): PREFIX + name for name, value in network.named_parameters()}
        for group in optimizer.param_groups:
            for value in group["params"]:
                name = names.get(id(value))
                if name is None or (name not in direction and value.requires_grad):
                    raise self._refusal("the optimizer also steps what is no part of the recorded network")
                if name in direction and (value.grad is not None or bool(direction[name].any())):
                    value.grad = direction[name].detach().to(value).reshape(value.shape)

    def _names(self, before: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Names of the learned tensors by keys of arrays, in the order of the network."""
        if self.network is None:
            kinds = {key: value.dtype.kind for key, value in before.items()}
            return {key: key for key, kind in kinds.items() if kind == "f"}
        found = match(before, self.network.state_dict())
        if found is None:
            raise self._refusal(f"the arrays of a message do not fit {type(self.network).__name__}")
        keys = {name: key for key, name in found.names.items()}
        learned = [name for name, value in self.network.named_parameters() if value.requires_grad]
        return {keys[name]: PREFIX + name for name in learned if name in keys}

    def _begun(self, client: int, arrays: Mapping[str, np.ndarray]) -> _Visit:
        place = client, self._visits.get(client, 0)
        self._visits[client] = place[1] + 1
        anchor = {name: torch.tensor(value) for name, value in arrays.items()}
        generator = seeds.torch_generator(self.seed, "ending", *place)
        draws = self.rule.ending(anchor, generator)
        memory = self._memories.get(client) or self.rule.memory(anchor)
        carry = self.rule.start(anchor, memory, {}, nominal(anchor, draws, rate=self.rate))
        return _Visit(place, anchor, carry, draws)

    def _finished(self, client: int, visit: _Visit, arrays: Mapping[str, np.ndarray]) -> State:
        parameters = {name: torch.tensor(value) for name, value in arrays.items()}
        work = nominal(visit.anchor, visit.draws, float(visit.step or 1), self.rate)
        sent = self.rule.finish(visit.anchor, parameters, work, visit.carry)
        self._memories[client] = sent.memory
        return {name: value.detach() for name, value in sent.parameters.items()}

    def _refusal(self, why: str) -> UsageError:
        """The error, remembered: an app may catch it and go on undefended."""
        self.refused = self.refused or f"{self.name} cannot act in the app's clients: {why}"
        return UsageError(self.refused)


def _arrays(content: RecordDict) -> Places:
    """Where each array of a message is; those of other records than the first as "record/name"."""
    found: Places = {}
    first = ""
    for record_name, record in content.items():
        if isinstance(record, ArrayRecord):
            first = first or record_name
            for name, array in record.items():
                if array.data:
                    found[name if record_name == first else f"{record_name}/{name}"] = record, name
    return found
