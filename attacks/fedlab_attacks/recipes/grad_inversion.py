"""GradInversion: squared distance, batch-norm statistics, and restarts that are pulled towards each other.

H. Yin, A. Mallya, A. Vahdat, J. Alvarez, J. Kautz and P. Molchanov, "See through Gradients: Image Batch
Recovery via GradInversion", CVPR 2021, https://arxiv.org/abs/2104.07586; over G starts x_g at once:

    minimise   ‖∇L(x_g) - g‖² / ‖g‖² + a_tv TV(x_g) + a_l2 ‖x_g‖² + a_bn Σ_l (‖μ̂_l - μ_l‖₂ + ‖σ̂²_l - σ²_l‖₂)
               + a_group ‖x_g - mean of the G‖²

by Adam with 50 steps of warm-up and a cosine decay. μ and σ² are the running statistics of the model.

Deviations. The distance is divided by the observed one and norms are means over pixels, so that one set of
weights serves networks and images of any size; a_bn is scaled down with the distance (published 0.1, with a
distance of another scale). The consensus is the mean image: the published registration by optical flow moves
photographs, not 32 x 32 pixels. Labels are whole counts from `label_recovery`, so that classes may repeat
(published: they are all different, the lowest entries of each row of the last layer's gradient); equal labels
make the order of those images a matter of chance, over which the consensus then averages. No noise is added
to the images' gradient. A network without batch norm is attacked without that term. 1000 iterations
(published: 20 000); the attacker's network runs in the client's mode (published: evaluation).
"""

from __future__ import annotations

import math
from typing import ClassVar

from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.optimise.descent import Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting
from fedlab_attacks.optimise.normed import check, follow
from fedlab_attacks.optimise.objectives import l2
from fedlab_attacks.optimise.optimisers import Adam
from fedlab_attacks.optimise.priors import consistency, energy, norm_statistics, total_variation
from fedlab_attacks.optimise.statistics import batch_norms, running_statistics
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker

WARM_UP = 50


class GradInversion(Inversion):
    """Squared distance and priors, restarts tied to their consensus.

    Args:
        iterations: of the descent.
        restarts: starts per victim, at least 2; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels.
        energy: weight of the mean squared pixel.
        batch_norm: weight of the distance to the model's running statistics.
        consistency: weight of the mean squared distance to the mean of a victim's restarts.
        step: Adam's largest step, in pixels.
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size", "learning_rate", "local_steps"})
    paper: ClassVar[str] = "Yin et al., See through Gradients, CVPR 2021"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 4,
        total_variation: float = 1e-4,
        energy: float = 1e-6,
        batch_norm: float = 1e-3,
        consistency: float = 0.01,
        step: float = 0.1,
        device: str = "cpu",
    ) -> None:
        super().__init__(iterations=iterations, restarts=restarts, device=device)
        if restarts < 2:
            raise UsageError(f"GradInversion: restarts = {restarts}; expected at least 2, which can agree")
        if not step > 0.0:
            raise UsageError(f"GradInversion: step = {step}; expected above 0")
        check(
            self,
            total_variation=total_variation,
            energy=energy,
            batch_norm=batch_norm,
            consistency=consistency,
        )
        self.weights = (total_variation, energy, consistency, batch_norm)
        self.step = step

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        normed = bool(batch_norms(victim))
        terms = (total_variation, energy, consistency, norm_statistics)
        recipe = Recipe(
            self.iterations,
            objective=l2,
            priors=[Prior(weight, term) for weight, term in zip(self.weights, terms, strict=True)],
            optimiser=Adam(self.step),
            schedule=warm_cosine,
            statistics=normed,
        )
        sent = [running_statistics(one, victim) if normed else {} for one in setting.observations]
        training = threat.client_mode == "train"
        found = follow(self, recipe, setting, victim, sent, ticker, training=training)
        return found, [f"consensus of {self.restarts} starts"] * len(setting)


def warm_cosine(i: int, iterations: int) -> float:
    """Rises to 1 within 50 iterations (a fifth of them if there are fewer), and falls as a cosine to 0."""
    rise = min(WARM_UP, max(iterations // 5, 1))
    return min(1.0, (i + 1) / rise) * 0.5 * (1.0 + math.cos(math.pi * i / iterations))
