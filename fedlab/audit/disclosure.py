"""What an attacker can make use of who knows the defense and its settings, but none of its random draws.

Kerckhoffs' principle: a defense that only holds while nobody knows of it is none. A defense says in a
`Disclosure` what its clients do to records and updates; attacks take it from `Victim.disclosure`, unless the
threat model denies it (`ThreatModel.defense`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

Sent = Literal["all", "nonzero", "signs"]
Expansion = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Disclosure:
    """What clients under a defense do, as far as it changes what an attacker should match.

    Attributes:
        sent: what of an update carries a value: all of it; all but what is exactly zero, which was left out;
            or the signs alone.
        distorted: parameters whose update is not the records' gradient: better left out of the matching.
        expansion: what a step makes of its records (B, C, H, W) -> (k B, C, H, W), differentiable and without
            chance; record i becomes the images i k to (i + 1) k - 1, which keep its label. None: they are
            used as they are.
        altered: whether clients train on something else than their records, transformed, mixed or moved
            otherwise than `expansion` tells: what an update determines is then that, and need be no record.
    """

    sent: Sent = "all"
    distorted: frozenset[str] = frozenset()
    expansion: Expansion | None = None
    altered: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to make use of: `altered` finds no more, it only takes proofs away."""
        return replace(self, altered=False) != Disclosure()

    def then(self, other: Disclosure) -> Disclosure:
        """What both together tell; `other` is the defense nearer to the server."""
        first, second = self.expansion, other.expansion
        both = (lambda images: second(first(images))) if first and second else first or second
        order: tuple[Sent, ...] = ("all", "nonzero", "signs")
        return Disclosure(
            sent=max(self.sent, other.sent, key=order.index),
            distorted=self.distorted | other.distorted,
            expansion=both,
            altered=self.altered or other.altered,
        )


NOTHING = Disclosure()
"""Of a defense that leaves attacks nothing to know, or of which the attacker knows nothing."""
