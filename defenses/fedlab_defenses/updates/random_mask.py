"""Send a random part of the update.

Konečný, McMahan, Yu, Richtárik, Suresh, Bacon, "Federated Learning: Strategies for Improving Communication
Efficiency", 2016, https://arxiv.org/abs/1610.05492, section 3 ("subsampling"): of d coordinates k are drawn
without replacement, for each client and round anew, and

    sent = Δ on those, times d / k if `scaled` (then its expectation is Δ), 0 elsewhere.

The server is told the seed of the draw, or sees the zeros: which coordinates were sent is no secret.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.updates.transform import TransformedRule, in_share

SEED_BYTES = 8


class RandomMask(Defense):
    """Sends a random `share` of the coordinates, drawn anew by each client in each round.

    Args:
        share: of the coordinates to send.
        scaled: whether what is sent is divided by the share, so that it is right on average.
    """

    paper = (
        "Konečný et al., Federated Learning: Strategies for Improving Communication Efficiency, 2016,"
        " https://arxiv.org/abs/1610.05492"
    )
    adaptive = ("cascade",)

    def __init__(self, *, share: Annotated[float, Field(gt=0, le=1)] = 0.1, scaled: bool = True) -> None:
        self.share, self.scaled = in_share("random-mask share", share), scaled

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "random-mask", self.masked, draw=self.drawn, secure=federation.secure)

    def drawn(self, size: int, generator: torch.Generator) -> State:
        """(size,) True for the coordinates that are sent."""
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.randperm(size, generator=generator)[: self._kept(size)]] = True
        return {"chosen": chosen}

    def masked(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,) with what is not sent at 0."""
        size = update.numel()
        return update * draws["chosen"] * (size / self._kept(size) if self.scaled else 1.0)

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(sent="nonzero" if self.share < 1 else "all")

    def uplink_bytes(self, values: int) -> float:
        return 4.0 * self._kept(values) + SEED_BYTES

    def _kept(self, values: int) -> int:
        return max(1, round(self.share * values))
