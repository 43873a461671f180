"""Clients that train on several images made of each record: the images, and what goes with them.

Record i becomes the images i k to (i + 1) k - 1 (`Disclosure.expansion`), each with the record's label, and
with its dropout mask and noise where candidates have them.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.audit.victim import Victim
from fedlab.tasks import State


def views(
    victim: Victim, images: Tensor, targets: Tensor, masks: State, noise: State
) -> tuple[Tensor, Tensor, State, State]:
    """(k R, C, H, W) images, (k R, ...) targets, masks and noise of R records; k = 1 without an expansion."""
    expansion = victim.disclosure.expansion
    if expansion is None:
        return images, targets, masks, noise
    seen = expansion(images)
    k = len(seen) // len(images)
    return (
        seen,
        targets.repeat_interleave(k, 0),
        {name: value.repeat_interleave(k, 0) for name, value in masks.items()},
        {name: value.repeat_interleave(k, 0) for name, value in noise.items()},
    )
