"""Send the signs of the update, and one number for their size.

Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems", ICML
2018, https://arxiv.org/abs/1802.04434:

    sent = mean_j |Δ_j| · sign Δ.

The size is that of 1-bit SGD with scaling, as in Karimireddy, Rebjock, Stich, Jaggi, ICML 2019,
https://arxiv.org/abs/1901.09847, without their memory. A coordinate that did not move has no sign and is sent
as 0. Deviation: any aggregator combines what comes (theirs is a majority vote).

Signs hide the sizes that closed forms divide by. Which inputs of a linear layer were not zero they tell all
the same, and a descent that matches signs needs no sizes.
"""

from __future__ import annotations

import math

from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.updates.transform import TransformedRule


class Sign(Defense):
    """Sends the sign of each coordinate, times the mean magnitude over the update."""

    paper = (
        "Bernstein, Wang, Azizzadenesheli, Anandkumar, signSGD, ICML 2018, https://arxiv.org/abs/1802.04434"
    )
    adaptive = ("cascade",)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "sign", signs)

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(sent="signs")

    def uplink_bytes(self, values: int) -> float:
        return math.ceil(values / 8) + 4.0


def signs(update: Tensor, draws: State) -> Tensor:
    """The signs of an update (d,), times its mean magnitude."""
    return update.abs().mean() * update.sign()
