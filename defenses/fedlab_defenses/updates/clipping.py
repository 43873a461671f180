"""Bound the length of the update, without noise.

The first half of Gaussian mechanisms, as of Geyer, Klein, Nabi, "Differentially Private Federated Learning: A
Client Level Perspective", 2017, https://arxiv.org/abs/1712.07557:

    sent = Δ min(1, C / ‖Δ‖₂)      over the whole update.

It bounds what one client can do to the model. What a server learns of the client it hardly touches: a shorter
update points the same way, and attacks ask for its direction. Without noise there is no guarantee.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.tasks import State
from fedlab_defenses.updates.transform import TransformedRule, positive


class Clipping(Defense):
    """Scales each update down to the L2 norm `clip`, if it is longer. No noise, no formal guarantee.

    Args:
        clip: C, the largest L2 norm of an update.
    """

    paper = (
        "Geyer, Klein, Nabi, Differentially Private Federated Learning: A Client Level Perspective, 2017,"
        " https://arxiv.org/abs/1712.07557"
    )
    adaptive = ("cascade",)

    def __init__(self, *, clip: Annotated[float, Field(gt=0)] = 1.0) -> None:
        self.clip = positive("clipping clip", clip)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "clipping", self.clipped)

    def clipped(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,), of length C at most."""
        shorter: Tensor = (self.clip / update.norm().clamp_min(1e-30)).clamp(max=1.0)
        return update * shorter
