"""What is said of one mechanism, and how finely an update can be read."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sign:
    """One mechanism, and whether it is seen.

    Attributes:
        name: of the mechanism.
        acts: None if it could not be told.
        figure: what was measured; None if nothing could be. Its unit is in `words`.
        words: what was seen, in a sentence.
    """

    name: str
    acts: bool | None
    figure: float | None
    words: str


def rounding(before: torch.Tensor) -> float:
    """The absolute error of an update that was taken as a difference of weights."""
    if not before.is_floating_point() or not before.numel():
        return 0.0
    return torch.finfo(before.dtype).eps * float(before.abs().max())
