"""Send the largest coordinates of the update, and remember the others for the next one.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, https://arxiv.org/abs/1809.07599,
Algorithm 1; as deep gradient compression Lin, Han, Mao, Wang, Dally, ICLR 2018,
https://arxiv.org/abs/1712.01887. With e_i what client i has not sent yet,

    Δ = (w_K - w_0) + e_i,    sent = the k largest of |Δ|,    e_i <- Δ - sent.

Made to save bytes. As a defense it delays more than it hides: what was left out arrives later, mixed with
later rounds.

Deviations: the memory is of updates (after the learning rate), as local steps are; no momentum correction,
clipping, or warm-up of DGC; e is in the rule's memory, so that a client that is asked again goes on with it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.updates.transform import TransformedRule, in_share, largest, sparse_bytes


class TopK(Defense):
    """Sends the `share` of coordinates with the largest magnitude; what is left goes with the next update.

    Args:
        share: of the coordinates to send, over the whole update.
        feedback: whether what was not sent is remembered and added to the client's next update.
    """

    paper = (
        "Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018, https://arxiv.org/abs/1809.07599"
    )
    adaptive = ("cascade",)

    def __init__(self, *, share: Annotated[float, Field(gt=0, le=1)] = 0.01, feedback: bool = True) -> None:
        self.share, self.feedback = in_share("top-k share", share), feedback

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "top-k", self.largest, feedback=self.feedback)

    def largest(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,) with all but its largest coordinates at 0."""
        return update * largest(update, self._kept(update.numel()))

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(sent="nonzero" if self.share < 1 else "all")

    def uplink_bytes(self, values: int) -> float:
        return sparse_bytes(values, self._kept(values))

    def _kept(self, values: int) -> int:
        return max(1, round(self.share * values))
