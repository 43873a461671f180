"""Whether it pays to stack the clients of a chunk, and how large chunks are.

Both are functions of the scenario and the model alone: never of workers, memory or the order of
answers, so that they change no bit between two machines.

Stacking saves what a step costs beside its arithmetic. Measured on one CPU core (client steps against
one client after the other): 4 to 8 times faster for an MLP of 5,000 parameters, 1.2 for LeNet-sized
convolutions, 0.85 for a ResNet, and 0.4 for an MLP of 160,000 parameters, whose stacked weights no
longer fit the caches. Fewer than 4 clients never gain. Where nearly all of a step is such cost, one
large stack beats two halves on two workers; where less of it is, a cohort is shared out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.clients.config import ClientConfig
from fedlab.tasks import FunctionalModel

LARGEST_STACK = 50
SHARED_STACK = 16
SMALLEST_STACK = 4
STACKED_PARAMETERS = 100_000
STACKED_FLOPS = 2e8
"""Of one step, forward and backward pass of one client's batch: above, arithmetic is all that counts."""
TINY_FLOPS = 3e6
"""Below, it hardly counts."""

CHUNKS = 16
"""Into how many chunks a cohort is cut whose clients train one by one: work for that many workers."""


@dataclass(frozen=True)
class Chunking:
    """How a cohort is cut before it is dispatched.

    Attributes:
        size: messages per chunk.
        stacked: whether the clients of a chunk train stacked, or one after the other.
    """

    size: int
    stacked: bool


def chunking(
    model: FunctionalModel, config: ClientConfig, records: int, cohort: int, size: int | None = None
) -> Chunking:
    """The cut for cohorts of `cohort` clients that hold at most `records` records each.

    A stacked chunk is the whole cohort, at most `LARGEST_STACK`, where steps are tiny, and else a
    quarter of it, from `SMALLEST_STACK` to `SHARED_STACK`.

    Args:
        size: messages per chunk, if the user has chosen it.
    """
    step = 3.0 * model.flops * min(config.batch_size or records, records)
    pays = model.parameter_count <= STACKED_PARAMETERS and step <= STACKED_FLOPS
    if step <= TINY_FLOPS:
        stack = min(LARGEST_STACK, cohort)
    else:
        stack = max(SMALLEST_STACK, min(SHARED_STACK, -(-cohort // 4)))
    stack = size or stack
    if pays and stack >= SMALLEST_STACK:
        return Chunking(stack, stacked=True)
    return Chunking(size or -(-cohort // CHUNKS), stacked=False)
