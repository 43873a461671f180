"""Local rules: how a client turns gradients into its update, and what its server does about it.

A rule is made of pure functions of tensors, so that `torch.func.vmap` can run it for a whole cohort
at once. FedAvg (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629) is the identity:
follow the mini-batch gradient, send what came out. Write another by overriding what differs.

Some algorithms also need the server to remember something between rounds and to tell it to the clients
(SCAFFOLD's control variate, a momentum): that half of a rule is its `server`, a `ServerSide`
(`rules/server.py`). Whatever travels beside the model has the model's shape; it is named
`slot/parameter`, for which there are `slot()` and `slotted()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedlab.clients.config import ClientConfig
from fedlab.clients.rules.server import ServerSide
from fedlab.tasks import FunctionalModel, State

Carry = State
"""What a rule remembers from step to step within one round (named tensors)."""


class Batch(NamedTuple):
    """One client's mini-batch, padded to its cohort's largest.

    x (B, C, H, W); y (B,); rows (B,) 1 for a record and 0 for padding; masks: keep-masks by dropout
    layer, (B, ...) each; draws: random tensors that the rule asked for in `draws`; noise: those that it
    asked for in `noise`, (B, ...) each; size: the configured (expected) batch size, a scalar; samples:
    standard normal draws of the network's stochastic layers, (B, ...) each.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    masks: State
    draws: State
    size: Tensor
    noise: State = {}  # noqa: RUF012 (never written to)
    samples: State = {}  # noqa: RUF012 (never written to)


class Work(NamedTuple):
    """What a client does in this round: scalars of the model's number type.

    steps: mini-batch steps that it takes; epoch: steps of one pass over its records; learning_rate,
    momentum: of its SGD; gradient: mean gradient over all of its records at the model that the server
    sent, for rules with `full_gradient` (empty for others); draws: random tensors that the rule asked for in
    `ending`.
    """

    steps: Tensor
    epoch: Tensor
    learning_rate: Tensor
    momentum: Tensor
    gradient: State
    draws: State = {}  # noqa: RUF012 (never written to)


class Aux(NamedTuple):
    """Beside a gradient: mean loss over the batch, and the buffers after the pass."""

    loss: Tensor
    buffers: State


class Sent(NamedTuple):
    """What a client's round comes to: parameters for the server, its own memory, and what else it sends."""

    parameters: State
    memory: State
    uplink: State


GradFn = Callable[[State, Batch], tuple[State, Aux]]
"""(parameters, batch) -> gradient of the mean loss over the batch's real rows."""

InputGradFn = Callable[[State, Tensor, Tensor], Tensor]
"""(parameters, x, y) -> gradient of each record's loss by its own pixels, in inference mode."""

NetworkFactory = Callable[[], nn.Module]


class LocalRule:
    """w <- w − η∇F(w; b): FedAvg's local rule, and the base of all others.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629.

    Attributes:
        server: the server's half.
        shares_buffers: whether what the network computed into its buffers (batch-norm statistics) may
            leave the client; if not, they stay as the server sent them.
        gradients: how many times a step looks at its batch.
        full_gradient: whether `start` needs the mean gradient over all of the client's records.
        pixels: whether the records must be images with pixels in [0, 1].
        peeks: whether the update depends on records in other ways than by gradients.
        alters: whether the algorithm trains on something else than its records (`perturb`, `expand`); what a
            defense makes of them stands in its `Disclosure`.
    """

    server: ServerSide = ServerSide()
    shares_buffers: bool = True
    gradients: int = 1
    full_gradient: bool = False
    pixels: bool = False
    peeks: bool = False
    alters: bool = False

    def check(self, config: ClientConfig) -> None:
        """Refuse, before the first round, a configuration that the rule cannot follow.

        Raises:
            UsageError: it cannot.
        """

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """What the algorithm makes of the network (a hypernetwork that generates it, say)."""
        return factory

    def meet(self, model: FunctionalModel) -> None:
        """Take note of the network that clients train; called wherever they do, before they begin.

        Raises:
            UsageError: the rule cannot train it.
        """

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        """The parameters that never leave a client, as the client begins with them.

        Args:
            parameters: of the model, as it was initialised.
            generator: the client's own.
        """
        return {}

    def memory(self, parameters: State) -> State:
        """What a client remembers before its first round; `finish` returns the same names and shapes.

        Where the server's half is `in_step`, a round in which the client's update did not count is forgotten.
        """
        return {}

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        """Random tensors for one step of one client, drawn outside of `vmap`."""
        return {}

    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        """Random tensors for the records of one step of one client, (B, ...) each; `shape` is x's."""
        return {}

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        """Random tensors for `finish`, drawn once per round of one client, outside of `vmap`."""
        return {}

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        """What to carry through the round's steps; `server` holds the slots that the server sent."""
        return {}

    def perturb(self, grad_fn: InputGradFn, parameters: State, batch: Batch) -> Batch:
        """The batch that a step trains on instead of the one that was drawn."""
        return batch

    def expand(self, batch: Batch) -> Batch:
        """What a gradient is taken of instead of `batch`: each record as k rows, i as i k to (i + 1) k - 1.

        Called within every gradient, also of one record alone: what bounds or weighs a record's gradient
        meets all its rows as one.
        """
        return batch

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        """The direction that the optimiser descends in this step."""
        gradient, aux = grad_fn(parameters, batch)
        return gradient, aux, carry

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        """What is sent and remembered; `anchor` is what the server sent."""
        return Sent(parameters, {}, {})

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        """Figures to send along with the update; whatever stands here leaves the client.

        `loss` is the mean training loss over the round's steps.
        """
        return {"train-loss": loss}


class WrappedRule(LocalRule):
    """Another rule, passed on as it is; a defense's rule overrides what it changes."""

    def __init__(self, inner: LocalRule) -> None:
        self.inner = inner
        self.server, self.shares_buffers = inner.server, inner.shares_buffers
        self.gradients, self.full_gradient = inner.gradients, inner.full_gradient
        self.pixels, self.peeks, self.alters = inner.pixels, inner.peeks, inner.alters

    def check(self, config: ClientConfig) -> None:
        self.inner.check(config)

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return self.inner.network(factory)

    def meet(self, model: FunctionalModel) -> None:
        self.inner.meet(model)

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        return self.inner.personal(parameters, generator)

    def memory(self, parameters: State) -> State:
        return self.inner.memory(parameters)

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        return self.inner.draws(parameters, generator)

    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        return self.inner.noise(shape, generator)

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        return self.inner.ending(parameters, generator)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return self.inner.start(parameters, memory, server, work)

    def perturb(self, grad_fn: InputGradFn, parameters: State, batch: Batch) -> Batch:
        return self.inner.perturb(grad_fn, parameters, batch)

    def expand(self, batch: Batch) -> Batch:
        return self.inner.expand(batch)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        return self.inner.direction(grad_fn, parameters, batch, carry)

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return self.inner.finish(anchor, parameters, work, carry)

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        return self.inner.metrics(records, steps, loss)


def slot(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tensors of one slot, by the parameters' names."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def slotted(name: str, state: Mapping[str, Tensor]) -> State:
    """Tensors by the parameters' names, as one slot."""
    return {f"{name}/{key}": value for key, value in state.items()}


def zeros(name: str, parameters: State) -> State:
    """A slot of zeros."""
    return slotted(name, {key: torch.zeros_like(value) for key, value in parameters.items()})
