"""What any attacker can compute: the network, its loss, a client's step. There is no truth in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.audit.disclosure import NOTHING, Disclosure
from fedlab.tasks import FunctionalModel, State


@dataclass(frozen=True, eq=False)
class Proxy:
    """Records of the same kind as the clients', none of theirs: (N, C, H, W) in [0, 1], (N,) labels."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Victim:
    """The public half of a federation.

    Attributes:
        model: the network that the server distributes (with a defense's changes to it).
        loss: per-example loss (B,) for labels (B,) or probabilities (B, classes).
        input_shape: (C, H, W); pixels lie in [0, 1].
        classes: number of labels.
        personal: parameters that never leave a client: no update has them, and `before` has the server's own
            values, which are nobody's.
        proxy: similar data that the attacker holds; None unless the threat model grants it.
        disclosure: what the attacker knows of the clients' defense; nothing where the threat model denies it.
    """

    model: FunctionalModel
    loss: Callable[[Tensor, Tensor], Tensor]
    input_shape: tuple[int, ...]
    classes: int
    personal: frozenset[str] = frozenset()
    proxy: Proxy | None = None
    disclosure: Disclosure = NOTHING

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the parameters that clients send, in the module's order."""
        return tuple(name for name in self.model.parameter_names if name not in self.personal)

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
            outputs, _, added = self.model.penalised({**values, **buffers}, x, training=training, masks=masks)
            losses = self.loss(outputs, targets)
            return (losses if added is None else losses + added).mean()

        gradients: State = torch.func.grad(objective)(parameters)
        return gradients
