"""Updates that an attacker makes of its own alone: a reversed one, and noise.

Sign flip: Li, Xu, Chen, Giannakis, Ling, "RSA: Byzantine-Robust Stochastic Aggregation Methods for
Distributed Learning from Heterogeneous Datasets", AAAI 2019, https://arxiv.org/abs/1811.03761. Deviation:
what is reversed is the change of the parameters, not the parameters.

Gaussian: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017, https://arxiv.org/abs/1703.02757, section 5. They send gradients with a
standard deviation of 200; here it is the change of the parameters that is drawn, so 1 is large already.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlab.adversaries.contract import HONEST, Adversary, Scene
from fedlab.errors import UsageError


class SignFlip(Adversary):
    """Δ <- −scale Δ, where Δ is what the client trained.

    Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous Datasets", AAAI 2019, https://arxiv.org/abs/1811.03761.

    Args:
        scale: how much longer than the honest update the reversed one is.
    """  # noqa: E501

    knows: ClassVar[str] = HONEST

    def __init__(self, *, scale: Annotated[float, Field(gt=0)] = 1.0) -> None:
        if not 0.0 < scale < float("inf"):
            raise UsageError(f"scale = {scale}; expected a finite number > 0")
        self.scale = scale

    def craft(self, scene: Scene) -> Tensor:
        return -self.scale * scene.own


class Gaussian(Adversary):
    """Δ <- N(0, std² I), for each client by itself.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017, https://arxiv.org/abs/1703.02757.

    Args:
        std: standard deviation of each parameter's change.
    """

    knows: ClassVar[str] = "nothing, not even records"

    def __init__(self, *, std: Annotated[float, Field(gt=0)] = 1.0) -> None:
        if not 0.0 < std < float("inf"):
            raise UsageError(f"std = {std}; expected a finite number > 0")
        self.std = std

    def craft(self, scene: Scene) -> Tensor:
        noise = torch.randn(scene.own.shape, generator=scene.generator, dtype=torch.float64)
        return self.std * noise
