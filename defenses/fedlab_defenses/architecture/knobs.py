"""Change the network instead of the update: more dropout, fewer units, no bias in the first layer, ...

Which knobs decide leakage is the finding of Valadi et al. 2025 (https://arxiv.org/abs/2508.19819)
for optimisation attacks, and plain linear algebra for closed forms. Some knobs that are believed to
help do not; the audit shows which.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.errors import UsageError, did_you_mean


class Architecture(Defense):
    """Applies named knobs to the scenario's model, e.g. `dropout = 0.5, first_bias = false`.

    Args:
        knobs: keyword arguments of the model (`fedlab info MODEL` lists them).
    """

    paper = "Valadi et al., From Research to Reality, 2025, https://arxiv.org/abs/2508.19819"

    example: ClassVar[dict[str, Any]] = {"dropout": 0.5}

    def __init__(self, **knobs: Any) -> None:
        if not knobs:
            raise UsageError(
                "defense architecture changes nothing without a knob; give at least one of the model's"
                " parameters, e.g. dropout = 0.5 (fedlab info MODEL lists them)"
            )
        self.knobs = knobs

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """The same model with the knobs turned.

        Raises:
            UsageError: the model has no such knob.
        """
        known = [
            parameter.name
            for parameter in inspect.signature(factory).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        for knob in self.knobs:
            if knob not in known:
                raise UsageError(
                    f'the model has no knob "{knob}".{did_you_mean(knob, known)} It has: {", ".join(known)}'
                )
        return functools.partial(factory, **self.knobs)
