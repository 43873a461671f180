"""Clients in training mode: statistics of their batch, solved from the buffers they send or estimated.

D. Valadi et al., "From Research to Reality: Feasibility of Gradient Inversion Attacks in Federated Learning",
2025, https://arxiv.org/abs/2508.19819. The attacker's network runs in training mode as the client's did, so
that its batch norm uses the statistics of the images it tries, and these are pulled towards those of the
client's batch, μ and σ²:

    minimise over x in the pixel box   1 - cos(∇L(x), g) + λ_tv TV(x)
                                       + λ_bn Σ_l ‖μ̂_l(x) - μ_l‖₂ + ‖σ̂²_l(x) - σ²_l‖₂

by Adam on the sign of the gradient, its step divided by ten after 3/8, 5/8 and 7/8 of the iterations.
`gia-running` solves for μ and σ² exactly, from the running statistics before and after the client's single
step; `gia-estimate` takes them from similar data of the attacker's own. How: `optimise.statistics`.

Why it helps: batch norm right behind a bias-free convolution undoes the contrast of its input, so that the
gradient hardly tells images from paler ones, and total variation prefers the paler.

Deviations: λ_tv = 0.001 and λ_bn = 0.01, which both fall with the step (published: 0.052 and 1.6e-4, tuned
for ResNet-18 on normalised pixels; on small networks the first outweighs the second, and contrast is lost);
1000 iterations (published: 3000 to 10 000); the start is uniform, because pixels lie in [0, 1] here; labels
come from `label_recovery` unless granted (published: granted); the least residual, 1 - cos, answers
(published: the last iterate); neither the optional median filter nor the choice of the ten largest layers.
Dropout is ignored: `training-client` searches for its masks, too.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import MissingBuffers
from fedlab_attacks.optimise.inversion import Inversion, Setting
from fedlab_attacks.optimise.normed import follow, signed_recipe
from fedlab_attacks.optimise.statistics import client_statistics, proxy_images, proxy_statistics
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker


class GIARunning(Inversion):
    """Cosine matching with the exact statistics of the client's batch.

    Args:
        iterations: of the descent.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        batch_norm: weight of the distance between statistics at first; 0 is plain matching in training mode.
        step: Adam's first step, in pixels.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "batch_norm_buffers", "local_steps"})
    paper: ClassVar[str] = "Valadi et al., From Research to Reality, arXiv 2025 (GIA-running)"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float = 1e-3,
        batch_norm: float = 0.01,
        step: float = 0.1,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        self.recipe = signed_recipe(self, smoothness=total_variation, batch_norm=batch_norm, step=step)

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        found = super().labels(observation, threat, victim, generator)
        if threat.client_mode == "eval":
            raise MissingBuffers(
                "clients in evaluation mode leave their running statistics as they were; use batch-statistics"
            )
        client_statistics(observation, victim, len(found))
        return found

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        exact = [client_statistics(one, victim, setting.batch) for one in setting.observations]
        found = follow(self, self.recipe, setting, victim, exact, ticker, training=True)
        return found, ["matching with exact statistics"] * len(setting)


class GIAEstimate(Inversion):
    """Cosine matching with statistics that the attacker's own data have: batch, layer, group, instance norm.

    Args:
        iterations: of the descent.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first.
        batch_norm: weight of the distance between statistics at first; 0 is plain matching.
        step: Adam's first step, in pixels.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "proxy_data"})
    paper: ClassVar[str] = "Valadi et al., From Research to Reality, arXiv 2025 (GIA-estimate)"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float = 1e-3,
        batch_norm: float = 0.01,
        step: float = 0.1,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        self.recipe = signed_recipe(self, smoothness=total_variation, batch_norm=batch_norm, step=step)

    def labels(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Tensor:
        found = super().labels(observation, threat, victim, generator)
        proxy_images(victim)
        return found

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        training = threat.client_mode != "eval"
        rates = threat.grants("dropout_rate")
        similar = [
            proxy_statistics(one, victim, setting.batch, training=training, rates=rates, generator=generator)
            for one, generator in zip(setting.observations, setting.generators, strict=True)
        ]
        found = follow(self, self.recipe, setting, victim, similar, ticker, training=training)
        return found, ["matching with estimated statistics"] * len(setting)
