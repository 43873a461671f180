"""`[privacy]`: where noise comes from, how much may be spent, and what is checked of what is claimed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlab.scenario.sections import Count, Positive, Section


class Canaries(Section):
    """Lower bound on ε from one training run: canaries that are put in or left out by the toss of a coin."""

    count: Annotated[int, Field(ge=10, le=10**6)] = 1000
    """Canaries m; each is in the training with probability 1/2."""
    guesses: Count | None = None
    """How many of them the auditor guesses, fixed before it looks; a tenth of `count` unless given."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the lower bound."""


class Privacy(Section):
    """What may be spent, and how claims are checked."""

    secure_rng: bool | None = None
    """Draw the noise of differential privacy from the operating system instead of the seed tree. Unless
    given: not in a simulation, which then repeats to the bit and protects no real data; on a deployed Grid
    always."""
    budget: Positive | None = None
    """ε that nobody may exceed: training stops before the round that would, with exit code 7."""
    check: bool = True
    """Check of each cell with noise that its mechanism does what is accounted for: noise, clipping, sampling
    and denominators."""
    canaries: Canaries | None = None
    """Also bound ε from below, with canaries in a training of their own; none unless given."""
    prior: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, strict=False)] = (
        1e-3,
        1e-2,
        1e-1,
    )
    """Chances κ with which somebody who sees no update guesses a record well enough; the report says how far
    the training can raise each."""
