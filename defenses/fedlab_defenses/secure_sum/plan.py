"""What clients and server have agreed on before the first round, and how one speaks to the other.

Each round has four stages, one message to each client and one back: `setup` (public keys), `share` (sealed
shares of secrets), `train` (masked vectors) and `unmask` (shares of what has to be taken off). All of it
stands in a record "secagg" of the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab_defenses.secure_sum.keys import PUBLIC, SEALED
from fedlab_defenses.secure_sum.quantisation import Quantiser
from fedlab_defenses.secure_sum.shares import SHARE

RECORD = "secagg"
"""The record that the protocol speaks in, and the key of what a client remembers within a round."""
STAGE, SETUP, SHARES, MASKED, UNMASK = "stage", "setup", "share", "train", "unmask"

FIGURE_BITS = 16
"""Figures (a loss, a number of steps) are summed in steps of 2^-16, modulo 2^64."""
PUBLIC_FIGURES = "dp-"
"""Figures whose names begin so are settings that everybody may know: they go beside the masked vector."""
EXAMPLES = "num-examples"


@dataclass(frozen=True)
class Plan:
    """The settings of a federation's secure sums.

    Attributes:
        quantiser: of an update's values.
        threshold: clients that a sum is made of at least.
        degree: neighbours that each client shares masks with; None for all others.
        capacity: clients that a sum is made of at most.
    """

    quantiser: Quantiser
    threshold: int
    degree: int | None
    capacity: int

    def needed(self, neighbourhood: int) -> int:
        """How many of a neighbourhood (its client among them) can open its secrets together."""
        return self.threshold if self.degree is None else neighbourhood // 2 + 1

    def largest_figure(self, cap: int) -> float:
        """Figures beyond it are set to it, so that sums of them stay within 2^64; weights are up to `cap`."""
        return 2.0 ** (62 - FIGURE_BITS) / (self.capacity * cap)

    def uplink_bytes(self, values: int, clients: int, figures: int = 3) -> float:
        """Bytes that a client sends in a round that nobody drops out of, as it would code them: the masked
        vector and `figures` figures, two public keys, a sealed letter to each neighbour (two shares), and a
        share for each neighbour in the end."""
        others = clients - 1 if self.degree is None else min(self.degree, clients - 1)
        vector = values * self.quantiser.bits // 8 + 8 * figures
        return vector + 2.0 * PUBLIC + others * (2 * SHARE + SEALED) + (others + 1) * SHARE
