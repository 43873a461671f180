"""Send only the largest coordinates of the update.

Proposed as a defense by Zhu, Liu, Han: Deep Leakage from Gradients (NeurIPS 2019,
https://arxiv.org/abs/1906.08935, section 5.2). It is a heuristic without a guarantee, and an attacker
who matches only the coordinates that were sent loses little at moderate ratios.

Deviation: the whole update is ranked at once (not tensor by tensor), and what is not sent is dropped,
not carried over to the next round (`top-k` does that).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.updates.transform import TransformedRule, largest, sparse_bytes


class GradientPruning(Defense):
    """Zeroes the `ratio` of coordinates with the smallest magnitude before the update is sent.

    Args:
        ratio: share of coordinates to drop, in [0, 1).
    """

    paper = "Zhu, Liu, Han, Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"
    adaptive = ("cascade",)

    def __init__(self, *, ratio: Annotated[float, Field(ge=0, lt=1)] = 0.9) -> None:
        if not 0.0 <= ratio < 1.0:
            raise UsageError(f"gradient-pruning ratio must lie in [0, 1), got {ratio}")
        self.ratio = ratio

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "gradient-pruning", self.pruned)

    def pruned(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,) with its smallest coordinates at 0."""
        return update * largest(update, self._kept(update.numel()))

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(sent="nonzero" if self.ratio else "all")

    def uplink_bytes(self, values: int) -> float:
        return sparse_bytes(values, self._kept(values))

    def _kept(self, values: int) -> int:
        return values - int(self.ratio * values)
