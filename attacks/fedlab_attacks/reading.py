"""What an observation says before any attack: how many steps and records, which layers saw what.

Nothing here is an attack. These are the questions that several attacks ask of one observation, answered from
the update, the training configuration and a few probing passes through the public network.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab.audit.attack import Report
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State


def steps(observation: Observation) -> int:
    """Local steps behind the update, as far as the configuration tells; at least 1."""
    config = observation.config
    if config.local_steps is not None:
        return max(config.local_steps, 1)
    epochs = config.local_epochs or 1
    if not config.batch_size or observation.examples is None:
        return epochs
    return epochs * math.ceil(observation.examples / config.batch_size)


def batch_size(observation: Observation, threat: ThreatModel) -> int | None:
    """Distinct records behind the update; None if the attacker cannot know.

    Several local steps are read as one step over all their records: that is exact for one step, and a
    first-order approximation (the parameters hardly move between steps) for more.
    """
    if not threat.grants("batch_size"):
        return None
    config, examples = observation.config, observation.examples
    if not config.batch_size or (config.local_steps is None and config.local_epochs is not None):
        return examples or config.batch_size or None
    seen = config.batch_size * (config.local_steps or 1)
    return min(seen, examples) if examples else seen


def disguised(threat: ThreatModel, victim: Victim) -> str:
    """Why what an update determines need be no record; "" where clients train on records as they are."""
    if not threat.grants("defense"):
        return (
            "whether clients change what they train on or send is unknown, and a changed update may look like"
            " another"
        )
    if victim.disclosure.altered:
        return "what was trained on is a transformed or mixed record"
    return ""


def uncounted(observation: Observation, threat: ThreatModel, victim: Victim) -> str:
    """Why nobody can say what is behind the update; "" where it is a known number of records' gradient."""
    if why := disguised(threat, victim):
        return why
    if batch_size(observation, threat) is None:
        return "the number of records is unknown, and a mixture of several may look like one"
    if not threat.grants("local_steps"):
        return "the number of local steps is unknown, and a mixture of their records may look like one"
    return ""


def unchanged(victim: Victim, *names: str) -> None:
    """Whether equations in the updates of the parameters `names` hold, as far as the defense is known.

    Raises:
        NotApplicable: clients leave a part of the update out, send no sizes, distort one of these, or train
            on more images than they have records.
    """
    known = victim.disclosure
    spoiled = sorted(known.distorted & set(names))
    if known.sent == "signs":
        raise NotApplicable("clients send signs alone, and equations need sizes")
    if known.sent == "nonzero":
        raise NotApplicable("clients leave a part of the update out, and which zeros are of it nobody knows")
    if known.expansion is not None:
        raise NotApplicable("clients train on several images made of each record, whose mixture was sent")
    if spoiled:
        raise NotApplicable(f"the defense changes the update of {spoiled[0]}")


@dataclass(frozen=True)
class Seen:
    """One parameterised layer of the network, and what it was fed in a probing pass."""

    name: str
    layer: nn.Module
    input: Tensor


def probe(victim: Victim, state: State, images: Tensor, masks: State | None = None) -> list[Seen]:
    """The layers that own parameters, in the order in which they run, with their input for `images`."""
    seen: list[Seen] = []
    hooks = []
    for name, module in victim.model.net.named_modules():
        if any(True for _ in module.parameters(recurse=False)):

            def note(layer: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                seen.append(Seen(name, layer, args[0].detach() if args else torch.empty(0)))

            hooks.append(module.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            victim.model(state, images, training=False, masks=masks)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class Ticker:
    """Counts iterations and reports them a few times per second at most."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.done, self._last = report, max(total, 1), 0, time.monotonic()

    def advance(self, iterations: int) -> None:
        """Count `iterations` more, whether they ran or were found unnecessary."""
        self.done = min(self.done + iterations, self.total)
        now = time.monotonic()
        if now - self._last >= 0.3 or self.done == self.total:
            self._last = now
            self.report(self.done, self.total)
