"""How a defense is put on one app: everything that can be told before the app runs under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.clientapp.typing import Mod
from torch import nn

from fedlab import seeds
from fedlab.apps.architecture import PREFIX, unwrapped
from fedlab.apps.asked import training_of
from fedlab.apps.contract import Ran, Recording, Sight
from fedlab.apps.defended import settings
from fedlab.apps.defended.clients import RuleInClients
from fedlab.apps.defended.network import Surgery
from fedlab.apps.defended.probing import changes_network, looks_at_network, moves_steps, unfit, wraps_strategy
from fedlab.apps.defended.server import AroundStrategy
from fedlab.apps.defended.stepping import Stepping
from fedlab.apps.defended.wishes import Wish
from fedlab.apps.facts import Facts, watched
from fedlab.apps.folder import Value
from fedlab.apps.meaning import WEIGHTS, as_weights, meaning_of
from fedlab.apps.naming import match
from fedlab.apps.replay import Comparison, compare
from fedlab.apps.schedule import examples
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import State

STEPS, UPDATES, NETWORK = "clients' steps", "updates", "network"
CONFIG, SERVER, AROUND = "run config", "server", "around clients"


@dataclass(frozen=True, eq=False)
class Seen:
    """An app that ran, as it is or under the defense of that label, and was read."""

    label: str
    defense: Defense
    ran: Ran
    facts: Facts


@dataclass(frozen=True, eq=False)
class Plan:
    """A defense on one app.

    Attributes:
        acts: where, in words; where in several places, where the most of it is done.
        surgery: on its networks; actor: in its clients; around: its strategy; mods: around its clients.
        wanted: fields of `ClientConfig` to be set; config: the run config's keys that do.
        notes: what of the app's own training is not under it, in sentences.
    """

    acts: str
    surgery: Surgery | None
    actor: RuleInClients | None
    around: AroundStrategy | None
    mods: Sequence[Mod]
    wanted: Mapping[str, Any]
    config: Mapping[str, Value]
    notes: Sequence[str] = ()

    @contextmanager
    def active(self) -> Iterator[None]:
        """While it lasts, the app's networks and strategies are defended; for the time of a run."""
        with ExitStack() as undo:
            for one in (self.surgery, self.around):
                if one is not None:
                    undo.enter_context(one.active())
            yield

    def check(self, before: Facts, ran: Ran, after: Facts) -> None:
        """Whether the defense really acted; what was only meant to be defended must not be scored.

        Raises:
            UsageError: it did not.
        """
        if self.actor is not None and not (self.actor.updates if self.acts != STEPS else self.actor.steps):
            raise UsageError("nothing of the app was seen on which it could act: no step, or no update")
        networks = [unwrapped(one.network) for one in ran.recordings.values() if one.network is not None]
        if self.surgery is not None and not (networks and all(self.surgery.met(one) for one in networks)):
            raise UsageError(
                "the app's networks were not met before they were used; turn the layers in its own code"
            )
        if self.around is not None and not self.around.started:
            raise UsageError(
                "the app's server starts no strategy of flwr.serverapp.strategy, nor one of"
                " flwr.server.strategy that the defense can wrap"
            )
        for field, (key, value) in zip(self.wanted, self.config.items(), strict=False):
            if _settings(before, field) == _settings(after, field):
                raise UsageError(f"the run config said {key} = {value}, and clients trained as before")


def plan(wish: Wish, first: Seen, clients: int, folder: Path, seed: int) -> Plan:
    """Plan a defense on an app that ran as it is.

    Args:
        clients: that there are; folder: of the app; seed: of the audit.

    Raises:
        UsageError: it cannot be put on this app.
    """
    defense, seen = wish.built(), watched(first.ran)
    recording = seen[0][1] if seen else None
    network = unwrapped(recording.network) if recording is not None and recording.network else None
    config = client_config(first)
    wanted = settings.changed(wish.name, defense, config)
    keys = settings.keys(wish.name, wanted, config, first.ran.configuration)
    surgery = _surgery(wish, defense, network, folder)
    actor = _actor(wish, defense, surgery.network if surgery else network, recording, first, clients, seed)
    around = AroundStrategy(defense) if wraps_strategy(defense) else None
    mods = tuple(defense.mods())
    places = {
        STEPS: actor is not None and actor.stepping is not None,
        UPDATES: actor is not None,
        NETWORK: surgery is not None,
        CONFIG: bool(keys),
        SERVER: around is not None,
        AROUND: bool(mods),
    }
    acts = next((place for place, there in places.items() if there), "")
    if not acts:
        raise UsageError(f"as it is set, {wish.label} changes nothing of this app")
    notes = _left_out(first) if acts == STEPS else []
    if surgery is not None and wish.params.get("dropout") and first.facts.mode == "eval":
        notes.append("clients train in evaluation mode, in which dropout drops nothing")
    return Plan(acts, surgery, actor, around, mods, wanted, keys, notes)


def _left_out(first: Seen) -> list[str]:
    """What the app adds to its own steps, if it does: steps that are computed anew are without it."""
    found = _replayed(first)
    if found.agrees:
        return []
    what = "a clip or a penalty of the app's own" + (", if it has one," if found.distance is None else "")
    return [f"{found.words}; {what} is left out where its steps are computed anew"]


def _replayed(first: Seen) -> Comparison:
    """The first update beside what the recorded steps of plain cross entropy give."""
    sight, recording, names = _first(first)
    sight = as_weights(sight, answers_hold(first))
    return compare(recording, sight.before, sight.after, names)


def answers_hold(first: Seen) -> str:
    """What an answer of the app as it is means, a key of `fedlab.apps.meaning.MEANINGS`.

    Under a defense no replay tells it any more.
    """
    if first.facts.view is not None:
        return first.facts.view.meaning
    return meaning_of(*_first(first)) if watched(first.ran) else WEIGHTS


def _first(first: Seen) -> tuple[Sight, Recording, Mapping[str, str]]:
    """The first update whose training was recorded, and the names of its arrays."""
    sight, recording = watched(first.ran)[0]
    network = unwrapped(recording.network or nn.Identity())
    naming = match(sight.before, network.state_dict())
    return sight, replace(recording, network=network), naming.names if naming is not None else {}


def client_config(first: Seen) -> ClientConfig:
    """How most clients trained; what is not known is as by default."""
    return ClientConfig(mode=first.facts.mode, **training_of(first.ran, first.facts))


def _surgery(wish: Wish, defense: Defense, network: nn.Module | None, folder: Path) -> Surgery | None:
    """None if the defense leaves the network as it is."""
    if not changes_network(defense):
        return None
    if network is None:
        raise UsageError(f"{wish.label} is about the network, and no torch network was seen to be trained")
    turned = wish.params.get("dropout", 0.0) if wish.name == "architecture" else 0.0
    room = turned if isinstance(turned, int | float) and 0.0 < turned < 1.0 else 0.0
    surgery = Surgery(wish.label, defense, network, folder, float(room))
    return surgery if surgery.changes else None


def _actor(
    wish: Wish,
    defense: Defense,
    network: nn.Module | None,
    recording: Recording | None,
    first: Seen,
    clients: int,
    seed: int,
) -> RuleInClients | None:
    """None if the defense leaves training and updates as they are."""
    plain, config = LocalRule(), client_config(first)
    rule = defense.local_rule(plain, _federation(first, config, clients))
    if rule is plain:
        return None
    if why := unfit(wish.name, rule):
        raise UsageError(why)
    rule.check(config)
    inner = torch.Size((1,)) if recording is None else recording.steps[0].inputs.shape[1:]
    moves = moves_steps(rule, _learned(network, first.ran), inner)
    stepping = None
    if moves or looks_at_network(rule):
        stepping = _stepping(wish, rule, network, inner, first, moves=moves)
        rule.meet(stepping.model)
    return RuleInClients(
        wish.label,
        rule,
        network,
        stepping if moves else None,
        config.learning_rate,
        seeds.derive(seed, "try", wish.label),
        answers_hold(first),
    )


def _stepping(
    wish: Wish, rule: LocalRule, network: nn.Module | None, inner: torch.Size, first: Seen, *, moves: bool
) -> Stepping:
    view, facts = first.facts.view, first.facts
    if network is None:
        raise UsageError(f"{wish.label} asks for the network, and no torch network was seen to be trained")
    known = view is not None or (not rule.pixels and _replayed(first).agrees)
    if moves and not known:
        why = facts.obstacles[0].splitlines()[0] if facts.obstacles else "the app could not be read"
        raise UsageError(f"{wish.label} takes other steps than the app, whose own are not known: {why}")
    if view is None or not rule.pixels:
        return Stepping(network, inner)
    return Stepping(network, inner, view.pixels, view.shape)


def _learned(network: nn.Module | None, ran: Ran) -> State:
    """The parameters of the network; without one, the arrays that are no counters."""
    if network is not None:
        learned = {name: value for name, value in network.named_parameters() if value.requires_grad}
        return {PREFIX + name: value.detach() for name, value in learned.items()}
    arrays = ran.sights[0].before if ran.sights else {}
    return {key: torch.tensor(value) for key, value in arrays.items() if value.dtype.kind == "f"}


def _federation(first: Seen, config: ClientConfig, clients: int) -> Federation:
    """What a defense plans with; of clients that were not seen, the fewest records that any has."""
    own = {sight.client: examples(sight) for sight in first.ran.sights}
    used = {
        client: sum(len(step.inputs) for step in one.steps)
        for (_, client), one in first.ran.recordings.items()
    }
    known = {client: count or used.get(client, 0) for client, count in own.items()}
    fewest = min((count for count in known.values() if count), default=config.batch_size or 1)
    return Federation(
        records=[known.get(client) or fewest for client in range(clients)],
        rounds=first.ran.rounds,
        config=config,
        cohort=max(1, len({sight.client for sight in first.ran.sights})),
    )


def _settings(facts: Facts, field: str) -> list[tuple[object, ...]]:
    """What of each client's training a field of `ClientConfig` decides."""
    names = ("local_steps", "local_epochs") if field in ("local_steps", "local_epochs") else (field,)
    return sorted((place, *(getattr(one, name) or 0 for name in names)) for place, one in facts.told.items())
