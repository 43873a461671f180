"""What transforms of the update share: a client's whole change, as one vector, becomes what it sends.

    Δ = (w_K - w_0) + e,      sent = T(Δ),      e <- Δ - sent  (with feedback; e = 0 otherwise)

Δ is flat, over all parameters that leave the client; those that stay with it stay as they are, and so do the
statistics of batch norm, which no transform here covers. Rules that send something else beside the update (a
gradient, a control variate) are refused: it would tell what the transform took away.

None of these transforms proves anything, "no formal guarantee": what they are worth, adaptive attacks say.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

from fedlab.clients.rules import Aux, Batch, Carry, GradFn, LocalRule, Sent, Work, WrappedRule
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab_defenses.privacy.lattice import SkellamRule

Change = Callable[[Tensor, State], Tensor]
"""From Δ (d,) and what was drawn for it to what is sent (d,); pure, so that it can be mapped."""
Draw = Callable[[int, torch.Generator], State]
"""Random tensors for an update of d numbers."""


class TransformedRule(WrappedRule):
    """Another rule, whose update is changed before it is sent.

    Args:
        name: of the defense.
        draw: what `change` is to be given at random; drawn once per client and round.
        feedback: whether a client remembers what it did not send, and adds it to its next update.
        secure: whether to draw from a stream that the operating system starts, not the seed tree.

    Raises:
        UsageError: the rule sends something else beside its update, has this transform already, or adds a
            share of the noise of a sum.
    """

    def __init__(
        self,
        inner: LocalRule,
        name: str,
        change: Change,
        *,
        draw: Draw | None = None,
        feedback: bool = False,
        secure: bool = False,
    ) -> None:
        super().__init__(inner)
        if inner.server.uplinks:
            raise UsageError(
                f"{name} changes the update, but the local rule {type(inner).__name__} also sends"
                f" {', '.join(inner.server.uplinks)}, which would tell what was changed; choose another rule"
            )
        self.name: str = name
        below = inner
        while isinstance(below, WrappedRule):
            if isinstance(below, TransformedRule) and below.name == name:
                raise UsageError(f"{name} stands twice in one stack; leave one of the two out")
            if isinstance(below, SkellamRule):
                raise UsageError(
                    f"{name} stands behind distributed-dp, whose ε is about sums of updates with all of their"
                    f" noise in them; what {name} makes of each is no function of their sum: put {name}"
                    " before it, or leave it out"
                )
            below = below.inner
        self.change, self.draw = change, draw
        self.feedback, self.secure = feedback, secure
        self._unsent, self._drawn = f"{name}/unsent", f"{name}/"
        self._kept: frozenset[str] = frozenset()

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        own = super().personal(parameters, generator)
        self._kept = frozenset(own)
        return own

    def memory(self, parameters: State) -> State:
        remembered = self.inner.memory(parameters)
        return remembered | (
            {self._unsent: torch.zeros_like(self._flat(parameters))} if self.feedback else {}
        )

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        found = self.inner.ending(parameters, generator)
        if self.draw is None:
            return found
        if self.secure:
            generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(8)) >> 1)
        drawn = self.draw(self._flat(parameters).numel(), generator)
        return found | {self._drawn + name: value for name, value in drawn.items()}

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        inner, own = self._parted(memory)
        return self.inner.start(parameters, inner, server, work) | own

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        inner, own = self._parted(carry)
        slope, aux, inner = self.inner.direction(grad_fn, parameters, batch, inner)
        return slope, aux, inner | own

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        inner, own = self._parted(carry)
        sent = self.inner.finish(anchor, parameters, work, inner)
        before, after = self._flat(anchor), self._flat(sent.parameters)
        delta = after - before
        owed = delta + own[self._unsent] if self.feedback else delta
        drawn = {
            name.removeprefix(self._drawn): value
            for name, value in work.draws.items()
            if name.startswith(self._drawn)
        }
        told = self.change(owed, drawn)
        # What is not changed goes out to the last bit, which before + (after - before) would not.
        out = torch.where(told == delta, after, before + told)
        memory = sent.memory | ({self._unsent: owed - told} if self.feedback else {})
        return sent._replace(parameters=sent.parameters | self._named(out, anchor), memory=memory)

    def _parted(self, state: State) -> tuple[State, State]:
        """What is the inner rule's, and what is not."""
        own = {name: value for name, value in state.items() if name == self._unsent}
        return {name: value for name, value in state.items() if name not in own}, own

    def _flat(self, state: State) -> Tensor:
        return torch.cat([value.reshape(-1) for name, value in state.items() if name not in self._kept])

    def _named(self, flat: Tensor, like: State) -> State:
        shared = {name: value for name, value in like.items() if name not in self._kept}
        parts = torch.split(flat, [value.numel() for value in shared.values()])
        pairs = zip(shared.items(), parts, strict=True)
        return {name: part.reshape(value.shape).to(value.dtype) for (name, value), part in pairs}


def in_share(name: str, value: float) -> float:
    """A share in (0, 1].

    Raises:
        UsageError: it is none.
    """
    if not 0.0 < value <= 1.0:
        raise UsageError(f"{name} = {value}; expected above 0 and at most 1")
    return value


def positive(name: str, value: float) -> float:
    """A finite number above 0.

    Raises:
        UsageError: it is none.
    """
    if not 0.0 < value < math.inf:
        raise UsageError(f"{name} = {value}; expected a finite number above 0")
    return value


def largest(update: Tensor, count: int) -> Tensor:
    """(d,) whether a coordinate is among the `count` largest by magnitude, ties included."""
    sizes = update.abs()
    return sizes >= sizes.topk(count).values[-1]


def sparse_bytes(values: int, kept: int) -> float:
    """Bytes of `kept` float32 among `values`: with a 4-byte place each, or a bit per coordinate, or all."""
    return min(4.0 * kept + min(4.0 * kept, values / 8), 4.0 * values)
