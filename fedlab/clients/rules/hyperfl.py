"""HyperFL: clients share a hypernetwork; what it generates from, and the classifier, they keep.

Guo, Zeng, Chen, Zhang, Ren, Zhou, Qu, "A New Federated Learning Framework Against Gradient Inversion
Attacks", AAAI 2025, https://arxiv.org/abs/2412.07187. A client's network is f(·; θ_i) and a classifier
g(·; ψ_i), with θ_i = h(v_i; φ) generated from the client's own embedding. A round of a client:

    1. ψ_i <- ψ_i − η_h ∇ψ F_i        for `head_epochs` passes, θ_i fixed
    2. φ, v_i <- φ − η ∇φ F_i, v_i − η ∇v F_i   for the passes that are left, ψ_i fixed

by SGD with momentum and weight decay (v <- βv + g + λw, from v = 0 in each round), the gradients of φ and
of v_i each clipped to a norm. Only φ is sent; the server averages it. θ_i is generated anew in
each forward pass, so an evaluation is always of the φ that it is given.

η is `clients.learning_rate`; SGD's other numbers are the rule's own, because weight decay must not
reach what a phase keeps fixed, so `clients.momentum` and `clients.weight_decay` stay 0. Privacy is
empirical. The upload is as large as φ: hidden units × |θ|, not |θ|.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.config import ClientConfig
from fedlab.clients.rules.contract import (
    Aux,
    Batch,
    Carry,
    GradFn,
    LocalRule,
    NetworkFactory,
    Work,
    slot,
    slotted,
    zeros,
)
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab.tasks.hypernetwork import PERSONAL, check_sizes, generated_network

EMBEDDING, HEAD = PERSONAL


class HyperFL(LocalRule):
    """φ <- Σ (n_i/n) φ_i with θ_i = h(v_i; φ); each client keeps its embedding v_i and its classifier.

    Guo et al., "A New Federated Learning Framework Against Gradient Inversion Attacks", AAAI 2025,
    https://arxiv.org/abs/2412.07187.

    Args:
        embedding: numbers in a client's embedding v.
        hidden: units of the hypernetwork's hidden layer; the upload grows with it.
        mip: whether the hypernetwork is magnitude invariant (Ortiz et al., ICLR 2024).
        head_epochs: passes of a round that train the classifier alone, before the others.
        head_learning_rate: of the classifier; `clients.learning_rate` is the hypernetwork's and v's.
        momentum: of all three.
        weight_decay: of all three.
        clip: largest norm of the gradient of φ, and of that of v.
    """

    def __init__(
        self,
        *,
        embedding: Annotated[int, Field(ge=1)] = 64,
        hidden: Annotated[int, Field(ge=1)] = 128,
        mip: bool = False,
        head_epochs: Annotated[int, Field(ge=1)] = 1,
        head_learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        weight_decay: Annotated[float, Field(ge=0)] = 5e-4,
        clip: Annotated[float, Field(gt=0)] = 50.0,
    ) -> None:
        check_sizes(embedding, [hidden])
        for what, value, sound in (
            ("head_epochs", head_epochs, head_epochs >= 1),
            ("head_learning_rate", head_learning_rate, 0.0 < head_learning_rate < math.inf),
            ("momentum", momentum, 0.0 <= momentum < 1.0),
            ("weight_decay", weight_decay, 0.0 <= weight_decay < math.inf),
            ("clip", clip, 0.0 < clip < math.inf),
        ):
            if not sound:
                raise UsageError(f"{what} = {value}; out of range (fedlab info hyperfl shows which it takes)")
        self.embedding, self.hidden, self.mip = embedding, hidden, mip
        self.head_epochs, self.head_learning_rate = head_epochs, head_learning_rate
        self.momentum, self.weight_decay, self.clip = momentum, weight_decay, clip

    def check(self, config: ClientConfig) -> None:
        if config.momentum or config.weight_decay:
            raise UsageError(
                f"clients.momentum = {config.momentum}, clients.weight_decay = {config.weight_decay};"
                " expected 0 with the local rule hyperfl, which has a momentum and a weight_decay of its own:"
                " set those"
            )
        if config.local_steps is not None or config.local_epochs <= self.head_epochs:
            told = (
                f"clients.local_epochs = {config.local_epochs}"
                if config.local_steps is None
                else f"clients.local_steps = {config.local_steps}"
            )
            raise UsageError(
                f"{told}, of which the local rule hyperfl spends head_epochs = {self.head_epochs} passes on"
                " the classifier alone; expected no local_steps, and clients.local_epochs of at least"
                f" {self.head_epochs + 1}, so that the hypernetwork learns too"
            )

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(generated_network, factory, self.embedding, [self.hidden], self.mip)

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        own = {name: value.clone() for name, value in parameters.items() if name.startswith(PERSONAL)}
        own[EMBEDDING] = torch.randn(own[EMBEDDING].shape, generator=generator).to(own[EMBEDDING])
        return own

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return zeros("velocity", parameters) | {
            "step": torch.zeros_like(work.steps),
            "head-steps": self.head_epochs * work.epoch,
            "rate": work.learning_rate,
        }

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        gradient = self._clipped(gradient)
        first = (carry["step"] < carry["head-steps"]).to(batch.size.dtype)
        old, velocity, slopes = slot(carry, "velocity"), {}, {}
        for name, value in gradient.items():
            head = name.startswith(HEAD)
            active = (first if head else 1.0 - first).to(value.dtype)
            slope = value + self.weight_decay * parameters[name]
            velocity[name] = self.momentum * old[name] + active * slope
            pace = self.head_learning_rate / carry["rate"] if head else 1.0
            slopes[name] = active * pace * velocity[name]
        return slopes, aux, carry | slotted("velocity", velocity) | {"step": carry["step"] + 1.0}

    def _clipped(self, gradient: State) -> State:
        """Factor min(1, clip / norm) on φ, and another on v, as torch.nn.utils.clip_grad_norm_ has it."""
        shared = [value for name, value in gradient.items() if not name.startswith(PERSONAL)]
        factor = self._factor(shared)
        own = self._factor([gradient[EMBEDDING]])
        return {
            name: value if name.startswith(HEAD) else value * (own if name == EMBEDDING else factor)
            for name, value in gradient.items()
        }

    def _factor(self, values: list[Tensor]) -> Tensor:
        norm = torch.stack([value.square().sum() for value in values]).sum().sqrt()
        return (self.clip / (norm + 1e-6)).clamp(max=1.0)
