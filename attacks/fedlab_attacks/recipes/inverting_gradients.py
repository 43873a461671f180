"""Inverting gradients: cosine matching with a total-variation prior, as published in inference mode.

J. Geiping, H. Bauermeister, H. Dröge and M. Moeller, "Inverting Gradients: How easy is it to break privacy in
federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053, equation 4. The attacker's network runs
in evaluation mode and knows nothing of dropout: against a client that trains with dropout this is the
published baseline, not the strongest attack.

Deviations: labels come from `label_recovery` unless granted; 1000 iterations instead of 4800 (on 8 x 8 digits
nothing moves after 500; raise `iterations` for larger images); the start is uniform noise, because pixels lie
in [0, 1] here; the weight of the total variation falls with the step, and a tenth as many iterations polish
the result without it, which is kept only if the residual falls; several weights may be tried at once, and the
residual chooses (published: tuned per experiment); several local steps are read as one on all their records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.optimise.descent import Descent, Prior, Recipe
from fedlab_attacks.optimise.inversion import Inversion, Setting, expected_noise
from fedlab_attacks.optimise.optimisers import POLISH, Adam
from fedlab_attacks.optimise.priors import total_variation
from fedlab_attacks.optimise.problem import Problem
from fedlab_attacks.optimise.starts import start_named
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.reading import Ticker


class InvertingGradients(Inversion):
    """Cosine distance plus total variation, by signed Adam, ignoring dropout.

    Args:
        iterations: of the published schedule; a tenth more polish the result.
        restarts: starts per victim; the least residual wins.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first, or several
            to try. Small images and smooth networks want 1e-5, photographs 1e-1.
        step: Adam's first step, in pixels.
        mode: of the attacker's batch norm, "eval" (as published) or "train"; dropout is ignored in both.
        start: of the images: "uniform" noise, "normal" noise, "patterned" or "constant".
        device: where to compute, in torch's words ("cpu", "cuda").

    Raises:
        UsageError: a parameter is out of range, or there is no such start or device.
    """

    paper: ClassVar[str] = "Geiping, Bauermeister, Dröge and Moeller, Inverting Gradients, NeurIPS 2020"

    def __init__(
        self,
        *,
        iterations: int = 1000,
        restarts: int = 1,
        total_variation: float | Sequence[float] = 1e-5,
        step: float = 0.1,
        mode: Literal["eval", "train"] = "eval",
        start: str = "uniform",
        device: str = "cpu",
    ) -> None:
        weights = [total_variation] if isinstance(total_variation, int | float) else list(total_variation)
        super().__init__(iterations=iterations, restarts=restarts * max(len(weights), 1), device=device)
        if mode not in ("eval", "train"):
            raise UsageError(f'InvertingGradients: mode = {mode!r}; expected "eval" or "train"')
        if not (weights and min(weights) >= 0.0 and step > 0.0):
            raise UsageError(
                f"InvertingGradients: total_variation = {total_variation}, step = {step}; expected"
                " weights of at least 0 and a step above 0"
            )
        self.weights, self.step, self.mode = torch.tensor(weights, dtype=torch.float32), step, mode
        self.start = start_named(start)
        self.polish = max(1, iterations // 10)

    def budget(self, victim: Victim, threat: ThreatModel) -> int:
        return self.iterations + self.polish

    def solve(
        self, setting: Setting, threat: ThreatModel, victim: Victim, ticker: Ticker
    ) -> tuple[Variables, list[str]]:
        training = self.mode == "train"
        problem = Problem.of(
            victim, setting.observations, setting.labels, training=training, device=self.device
        )
        masks = setting.identity_masks(victim, self.restarts) if training else {}
        noise = expected_noise(victim, len(setting) * self.restarts, setting.batch) if training else {}
        images = setting.noise(victim, self.restarts, self.start)
        start = Variables(images, masks=masks, noise=noise).to(self.device)
        weights = self.weights.repeat(len(start) // len(self.weights)).to(self.device)
        smooth = Prior(weights, total_variation, fades=True)
        published = Recipe(self.iterations, priors=[smooth], optimiser=Adam(self.step, signed=True))
        found = Descent(published)(problem.repeat(self.restarts), start, ticker).best_of(self.restarts)
        polish = Recipe(self.polish, optimiser=Adam(self.step / 100, signed=True), schedule=POLISH)
        found = found.or_better(Descent(polish)(problem, found, ticker))
        return found, ["matching"] * len(setting)
