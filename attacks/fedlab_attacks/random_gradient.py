"""The null control as an attack of its own: another attack, on a random update.

The observed update is replaced by a Gaussian one of equal norm (`fedlab.audit.observation.random_twin`),
which owes nothing to the client's data. What the inner attack scores on it is what its priors, its start and
the pixel box are worth by themselves. Y. Huang et al., "Evaluating Gradient Inversion Attacks and Defenses in
Federated Learning", NeurIPS 2021, https://arxiv.org/abs/2112.00059, show how far assumptions alone can go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UnknownName
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.label_recovery import LabelRecovery
from fedlab_attacks.recipes.deep_leakage import DeepLeakage, ImprovedDeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients

INNER: Mapping[str, Callable[..., Attack]] = {
    "inverting-gradients": InvertingGradients,
    "dropout-inversion": DropoutInversion,
    "deep-leakage": DeepLeakage,
    "improved-deep-leakage": ImprovedDeepLeakage,
    "linear-layer": LinearLayer,
    "label-recovery": LabelRecovery,
}


class RandomGradient(Attack):
    """Runs `attack` (a name of a built-in attack, or an Attack) on random updates.

    Args:
        attack: what to run; `parameters` are its own.

    Raises:
        UnknownName: no built-in attack is called that.
    """

    paper: ClassVar[str] = "null control"

    def __init__(self, *, attack: str | Attack = "inverting-gradients", **parameters: Any) -> None:
        if isinstance(attack, Attack):
            self.inner = attack
        elif attack in INNER:
            self.inner = INNER[attack](**parameters)
        else:
            raise UnknownName("built-in attack", attack, INNER)

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        twins = [random_twin(observation, generator) for observation in observations]
        return self.inner(twins, threat, victim, generator=generator, report=report)
