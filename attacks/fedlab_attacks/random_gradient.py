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
from fedlab_attacks.cascade import Cascade
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.exact.pullback import HypernetworkPullback
from fedlab_attacks.exact.sparse_batch import SparseBatch
from fedlab_attacks.label_recovery import LabelRecovery
from fedlab_attacks.optimise.inversion import own_generator
from fedlab_attacks.recipes.batch_statistics import BatchStatistics
from fedlab_attacks.recipes.deep_leakage import DeepLeakage, ImprovedDeepLeakage
from fedlab_attacks.recipes.dropout_inversion import DropoutInversion
from fedlab_attacks.recipes.grad_inversion import GradInversion
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients
from fedlab_attacks.recipes.local_steps import LocalSteps
from fedlab_attacks.recipes.training_client import TrainingClient
from fedlab_attacks.recipes.training_mode import GIAEstimate, GIARunning

INNER: Mapping[str, Callable[..., Attack]] = {
    "cascade": Cascade,
    "linear-layer": LinearLayer,
    "sparse-batch": SparseBatch,
    "patch-embedding": PatchEmbedding,
    "layer-peel": LayerPeel,
    "hypernetwork-pullback": HypernetworkPullback,
    "label-recovery": LabelRecovery,
    "deep-leakage": DeepLeakage,
    "improved-deep-leakage": ImprovedDeepLeakage,
    "inverting-gradients": InvertingGradients,
    "grad-inversion": GradInversion,
    "batch-statistics": BatchStatistics,
    "gia-running": GIARunning,
    "gia-estimate": GIAEstimate,
    "dropout-inversion": DropoutInversion,
    "local-steps": LocalSteps,
    "training-client": TrainingClient,
}
"""The attacks of a curious server; a malicious one needs clients that were sent its network."""


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
        seed = int(torch.randint(2**62, (1,), generator=generator))
        twins = [random_twin(one, own_generator(seed, one)) for one in observations]
        return self.inner(twins, threat, victim, generator=generator, report=report)
