"""What any attacker can compute: the network, its loss, a client's step. There is no truth in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.tasks import FunctionalModel, State


@dataclass(frozen=True)
class Victim:
    """The public half of a federation.

    Attributes:
        model: the network that the server distributes (with a defense's changes to it).
        loss: per-example loss (B,) for labels (B,) or probabilities (B, classes).
        input_shape: (C, H, W); pixels lie in [0, 1].
        classes: number of labels.
    """

    model: FunctionalModel
    loss: Callable[[Tensor, Tensor], Tensor]
    input_shape: tuple[int, ...]
    classes: int

    def gradient(
        self,
        parameters: State,
        buffers: State,
        x: Tensor,
        targets: Tensor,
        *,
        training: bool,
        masks: State | None = None,
    ) -> State:
        """Gradient of the mean loss over a batch; pure, so it can be mapped and differentiated again.

        Args:
            x: (B, C, H, W); targets: (B,) labels or (B, classes) probabilities.
            training: batch statistics in batch norm; masks: see `FunctionalModel.__call__`.
        """

        def objective(values: State) -> Tensor:
            outputs, _ = self.model({**values, **buffers}, x, training=training, masks=masks)
            return self.loss(outputs, targets).mean()

        gradients: State = torch.func.grad(objective)(parameters)
        return gradients
