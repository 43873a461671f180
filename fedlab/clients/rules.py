"""Local rules: how a client turns gradients into its update.

A rule is made of pure functions of tensors, so that `torch.func.vmap` can run it for a whole cohort
at once. FedAvg (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629) is the identity:
follow the mini-batch gradient, send what came out. Write another by overriding what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedlab.tasks import State

Carry = State
"""What a rule remembers from step to step within one round (named tensors)."""


class Batch(NamedTuple):
    """One client's mini-batch, padded to its cohort's largest.

    x (B, C, H, W); y (B,); rows (B,) 1 for a record and 0 for padding; masks: keep-masks by dropout
    layer, (B, ...) each; draws: random tensors that the rule asked for in `draws`; size: the
    configured (expected) batch size, a scalar.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    masks: State
    draws: State
    size: Tensor


class Aux(NamedTuple):
    """Beside a gradient: mean loss over the batch, and the buffers after the pass."""

    loss: Tensor
    buffers: State


GradFn = Callable[[State, Batch], tuple[State, Aux]]
"""(parameters, batch) -> gradient of the mean loss over the batch's real rows."""


class LocalRule:
    """FedAvg's local rule, and the base of all others.

    Attributes:
        shares_buffers: whether what the network computed into its buffers (batch-norm statistics) may
            leave the client; if not, they stay as the server sent them.
    """

    shares_buffers: bool = True

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        """Random tensors for one step of one client, drawn outside of `vmap`."""
        return {}

    def start(self, parameters: State, client_state: State, server_state: State) -> Carry:
        """What to carry through the round's steps."""
        return {}

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        """The direction that the optimiser descends in this step."""
        gradient, aux = grad_fn(parameters, batch)
        return gradient, aux, carry

    def finish(self, anchor: State, parameters: State, steps: Tensor, carry: Carry) -> tuple[State, State]:
        """(parameters to send, new client state); `anchor` is what the server sent."""
        return parameters, {}

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        """Figures to send along with the update; whatever stands here leaves the client.

        `loss` is the mean training loss over the round's steps.
        """
        return {"train-loss": loss}
