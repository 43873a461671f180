"""What clients answer to a server that sends them a model of its own making.

Training is left as it was: at each victim's round, the same client, with the same records, defense and
mods, is sent what the attack makes of the model (`Attack.network`, `Attack.parameters`) instead, and what it
answers is what the attack gets. A client that refuses (`fedlab_defenses.model_inspection`) is not attacked,
and the report says why. What a rule remembers from earlier rounds is left out: the client meets this server
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedlab import seeds
from fedlab.audit import Attack, Observation, Proxy, Victim
from fedlab.clients.app import EPOCHS
from fedlab.errors import NotApplicable, PluginError, UsageError
from fedlab.experiment.cells import Parts, Trained
from fedlab.experiment.setup import Setup
from fedlab.runtime import SimulationGrid, node_of
from fedlab.runtime.arrays import array_record, tensors
from fedlab.tasks import State


@dataclass(frozen=True)
class Provoked:
    """Answers to a malicious server.

    Attributes:
        victim: the network that it sent.
        observations: of the clients that answered.
        refused: why the others did not, by place among the victims.
    """

    victim: Victim
    observations: list[Observation]
    refused: dict[int, str]


def provoke(
    attack: Attack,
    trained: Trained,
    observations: Sequence[Observation],
    setup: Setup,
    proxy: Proxy | None = None,
) -> Provoked:
    """Send each observed client what the attack makes of the model that it was sent.

    Args:
        proxy: similar data that the server holds, to make its model with.

    Raises:
        NotApplicable: a part of the model stays with the clients, the server sees sums only, or the clients
            are those of an app, which answered its own server.
        PluginError: what the attack makes does not fit the network that it made.
    """
    if trained.used is not None:
        raise NotApplicable("an app's clients answered the model of its own server, and no other")
    if any(one.parts for one in observations):
        raise NotApplicable("the server sees sums only; this attack needs each client's update")
    parts = _parts(attack, trained, setup)
    if parts.personal:
        raise NotApplicable("a part of the model stays with the clients; the server cannot send another")
    task = parts.task
    victim = Victim(parts.model, task.loss, task.input_shape, task.classes, proxy=proxy)
    grid = SimulationGrid(parts.app, len(parts.owners))
    found, refused = [], {}
    for place, seen in enumerate(observations):
        generator = seeds.torch_generator(trained.cell.seed, "malicious", seen.round, seen.client)
        sent = attack.parameters(_agreed(parts, seen), victim, generator=generator)
        _check(attack, sent, parts.model.state())
        said = {"server-round": seen.round}
        if seen.config.local_epochs not in (None, trained.config.local_epochs):
            said[EPOCHS] = int(seen.config.local_epochs or 0)
        content = RecordDict({"arrays": array_record(sent), "config": ConfigRecord(dict(said))})
        message = Message(content, dst_node_id=node_of(seen.client), message_type=MessageType.TRAIN)
        (reply,) = grid.send_and_receive([message])
        if reply.has_error():
            refused[place] = str(reply.error.reason)
            continue
        after = tensors(next(iter(reply.content.array_records.values())))
        found.append(_observation(parts, seen, sent, after))
    return Provoked(victim, found, refused)


def _parts(attack: Attack, trained: Trained, setup: Setup) -> Parts:
    try:
        shape = trained.task.input_shape
        return setup.parts(trained.cell, lambda factory: attack.network(factory, shape))
    except UsageError as error:
        raise NotApplicable(f"its network does not fit this federation: {error}") from error


def _agreed(parts: Parts, seen: Observation) -> State:
    """The malicious network's state with the agreed values in their places, whatever was put around them."""
    state, agreed = parts.model.state(), {**seen.before, **seen.buffers_before}
    for name, value in agreed.items():
        places = [one for one in state if one == name or one.endswith(f".{name}")]
        place = min(places, key=len, default=None)  # the least wrapped, if a deeper layer ends in that name
        if place is not None and state[place].shape == value.shape:
            state[place] = value.clone()
    return state


def _check(attack: Attack, sent: State, expected: State) -> None:
    wrong = [name for name in sent.keys() | expected.keys() if _shape(sent, name) != _shape(expected, name)]
    if wrong:
        name = sorted(wrong)[0]
        raise PluginError(
            f"{type(attack).__name__} sends {name!r} with shape {_shape(sent, name)}; its network has"
            f" {_shape(expected, name)}"
        )


def _shape(state: State, name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _observation(parts: Parts, seen: Observation, sent: State, after: State) -> Observation:
    model = parts.model
    before = model.parameters_of(sent)
    return replace(
        seen,
        before=before,
        update={name: after[name] - value for name, value in before.items()},
        buffers_before=model.buffers_of(sent),
        buffers_after=model.buffers_of(after),
        masks=(),  # those are of the agreed network's layers
    )
