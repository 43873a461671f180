"""FAL: clients train on the images that their own model finds hardest near those they hold.

Li, Song, Yang, "Federated Adversarial Learning: A Framework with Convergence Analysis", ICML 2023,
https://arxiv.org/abs/2208.03635, Algorithm 1: in each local step x̃ <- Π(x̃ + α sign ∇ℓ(y; x̃)) is repeated P
times, Π onto the images within ρ of x in every pixel, and then y <- y − η ∇ℓ(y; x̃). The server is FedAvg's;
its η_global is the server optimizer's learning rate.

Pixels stay in [0, 1]. The search starts at a random point of the ball, and the network is in inference
mode during it (no dropout, running statistics in batch norm), so that a record's x̃ depends on no other
record; the step itself then trains in the clients' mode. P = 0 is FedAvg, bit for bit.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.rules.contract import Batch, InputGradFn, LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab.tasks.adversarial import ascend


class AdversarialTraining(LocalRule):
    """y <- y − η ∇ℓ(y; x̃), where x̃ <- Π(x̃ + α sign ∇_x̃ ℓ(y; x̃)) P times, within ρ of x in each pixel.

    Li, Song, Yang, "Federated Adversarial Learning: A Framework with Convergence Analysis", ICML 2023,
    https://arxiv.org/abs/2208.03635.

    Args:
        rho: ρ, by how much a pixel (0 to 1) may change.
        alpha: α, a step of the search; ρ/4 unless given.
        steps: P, steps of the search in each local step; 0 is FedAvg.
    """

    pixels = True

    def __init__(
        self,
        *,
        rho: Annotated[float, Field(gt=0, le=1)] = 0.1,
        alpha: Annotated[float | None, Field(gt=0)] = None,
        steps: Annotated[int, Field(ge=0)] = 7,
    ) -> None:
        if not 0.0 < rho <= 1.0:
            raise UsageError(f"rho = {rho}; expected a number above 0, at most 1 (pixels lie in [0, 1])")
        if alpha is not None and not 0.0 < alpha < float("inf"):
            raise UsageError(f"alpha = {alpha}; expected a finite number > 0, or none for rho / 4")
        if steps < 0:
            raise UsageError(f"steps = {steps}; expected 0 (FedAvg) or more")
        self.rho, self.alpha, self.steps = rho, rho / 4.0 if alpha is None else alpha, steps
        self.alters = steps > 0

    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        if not self.steps:
            return {}
        return {"start": self.rho * (2.0 * torch.rand(shape, generator=generator) - 1.0)}

    def perturb(self, grad_fn: InputGradFn, parameters: State, batch: Batch) -> Batch:
        if not self.steps:
            return batch

        def slope(pixels: Tensor) -> Tensor:
            return grad_fn(parameters, pixels, batch.y)

        found = ascend(slope, batch.x, batch.noise["start"], self.rho, self.alpha, self.steps)
        return batch._replace(x=found)
