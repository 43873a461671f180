"""What a simulated client sends back, and what its norm layers were given on the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from torch import Tensor

from fedlab.audit.victim import Victim
from fedlab.tasks import State
from fedlab_attacks.optimise.problem import Problem, Statistics
from fedlab_attacks.optimise.statistics import recording
from fedlab_attacks.optimise.variables import Variables


class Simulated(NamedTuple):
    """What the candidates explain; differentiable with respect to them.

    Attributes:
        update: (V, ...) by shared parameter, as a gradient: of several steps, the mean step.
        statistics: mean and biased variance (V, C) of what each norm layer was given, C as
            `statistics.moments` has it; of several steps, the last one's. Empty unless asked for.
        buffers: (V, ...) after the round.
    """

    update: State
    statistics: Statistics
    buffers: State


Term = Callable[[Problem, Variables, Simulated], Tensor]
"""What is minimised, (V,): an objective or a prior."""


def capturing(victim: Victim, wanted: bool) -> AbstractContextManager[Statistics]:
    """Within, each pass through the network leaves its norm layers' moments, if they are wanted."""
    return recording(victim) if wanted else nullcontext({})
