"""Change the network instead of the update: more dropout, fewer units, no bias in the first layer, ...

Which knobs decide leakage is the finding of Valadi et al. 2025 (https://arxiv.org/abs/2508.19819)
for optimisation attacks, and plain linear algebra for closed forms. Some knobs that are believed to
help do not; the audit shows which.

A knob that the model itself has is turned there, when the network is made. One that it lacks (your own
`nn.Module` has none) is turned by exchanging layers, as far as that can be: see `surgery`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.errors import UsageError, did_you_mean
from fedlab_defenses.architecture.surgery import SURGERY


class Architecture(Defense):
    """Applies named knobs to the scenario's model, e.g. `dropout = 0.5, first_bias = false`.

    Args:
        knobs: keyword arguments of the model (`fedlab info MODEL` lists them); activation, dropout,
            first_bias, norm and pool of any network that has such layers.
    """

    paper = "Valadi et al., From Research to Reality, 2025, https://arxiv.org/abs/2508.19819"

    example: ClassVar[dict[str, Any]] = {"dropout": 0.5}
    adaptive: tuple[str, ...] = ("cascade",)  # the closed forms read the network first

    def __init__(self, **knobs: Any) -> None:
        if not knobs:
            raise UsageError(
                "defense architecture changes nothing without a knob; give at least one of the model's"
                " parameters, e.g. dropout = 0.5 (fedlab info MODEL lists them)"
            )
        self.knobs = knobs
        if knobs.get("dropout"):  # the one knob that has an attack of its own
            self.adaptive = (*self.adaptive, "dropout-inversion")

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
            if knob not in known and knob not in SURGERY:
                hint = did_you_mean(knob, [*known, *SURGERY])
                raise UsageError(
                    f'the model has no knob "{knob}".{hint} It has: {", ".join(known) or "none"}; of any'
                    f" network can be turned, where it has such layers: {', '.join(SURGERY)}"
                )
        own = {knob: value for knob, value in self.knobs.items() if knob in known}
        rest = {knob: value for knob, value in self.knobs.items() if knob not in known}
        turned = functools.partial(factory, **own)
        return functools.partial(_operated, turned, rest) if rest else turned


def _operated(factory: NetworkFactory, knobs: Mapping[str, Any]) -> nn.Module:
    net = factory()
    for knob, value in knobs.items():
        net = SURGERY[knob](net, value)
    return net
