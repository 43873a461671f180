"""Model replacement: an update so long that the mean becomes the attacker's model.

Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning", AISTATS 2020,
https://arxiv.org/abs/1807.00459, section 4.2. The attacker trains a model X with a backdoor from the global
model G, and sends (n/η)(X − G): if the other updates cancel, as those of a model that has converged do, the
mean of all n with server learning rate η is X itself.

Deviations: with several attackers each sends its share, so that the mean is the mean of their models; the
factor is by records (the sum over all, divided by the sum over the attackers), since that is how clients
count; η is taken to be 1. Name the factor where the server does otherwise (`mean`, a learning rate).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlab.adversaries.contract import Adversary, Scene
from fedlab.adversaries.data import Backdoor
from fedlab.errors import UsageError


class ModelReplacement(Adversary):
    """Δ <- γ (X − G), where X was trained on records with a backdoor and γ = Σ n_i over all / over attackers.

    Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020, https://arxiv.org/abs/1807.00459.

    Args:
        target: the label of every image that shows the trigger.
        size: side of the trigger, a square in the lower right corner, in pixels.
        value: brightness of its pixels.
        share: of a client's records, rounded, that get the trigger; at least one record does.
        scale: γ; by the records of the round's clients unless given.
    """

    knows: ClassVar[str] = "their own records, and how many records the other clients of the round hold"

    def __init__(
        self,
        *,
        target: Annotated[int, Field(ge=0)] = 0,
        size: Annotated[int, Field(ge=1)] = 2,
        value: Annotated[float, Field(ge=0, le=1)] = 1.0,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        scale: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        if scale is not None and not 0.0 < scale < float("inf"):
            raise UsageError(f"scale = {scale}; expected a finite number > 0")
        self.backdoor = Backdoor(target=target, size=size, value=value, share=share)
        self.scale, self.wants = scale, self.backdoor.wants

    def poison(self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.backdoor.poison(x, y, classes, generator)

    def craft(self, scene: Scene) -> Tensor:
        if self.scale is not None:
            return self.scale * scene.own
        return scene.own * ((scene.weights.sum() + scene.honest_weights.sum()) / scene.weights.sum())

    def aim(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        return self.backdoor.aim(x, y, classes)
