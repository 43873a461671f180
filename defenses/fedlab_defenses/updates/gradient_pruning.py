"""Send only the largest coordinates of the update.

Proposed as a defense by Zhu, Liu, Han: Deep Leakage from Gradients (NeurIPS 2019,
https://arxiv.org/abs/1906.08935, section 5.2). It is a heuristic without a guarantee, and an attacker
who matches only the coordinates that were sent loses little at moderate ratios.

Deviation: the whole update is ranked at once (not tensor by tensor), and what is not sent is dropped,
not carried over to the next round. Parameters that stay with the client stay as they are. Rules that send
something else beside the update (a gradient, a control variate) are refused: it would give away what was
pruned, and a control variate that is pruned is none.
"""

from __future__ import annotations

import torch

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import Carry, LocalRule, Sent, Work, WrappedRule
from fedlab.errors import UsageError
from fedlab.tasks import State


class GradientPruning(Defense):
    """Zeroes the `ratio` of coordinates with the smallest magnitude before the update is sent.

    Args:
        ratio: share of coordinates to drop, in [0, 1).
    """

    paper = "Zhu, Liu, Han, Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"

    def __init__(self, *, ratio: float = 0.9) -> None:
        if not 0.0 <= ratio < 1.0:
            raise UsageError(f"gradient-pruning ratio must lie in [0, 1), got {ratio}")
        self.ratio = ratio

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return PrunedRule(rule, self.ratio)


class PrunedRule(WrappedRule):
    """Another rule, with its update pruned.

    Raises:
        UsageError: the rule sends something else beside its update.
    """

    def __init__(self, inner: LocalRule, ratio: float) -> None:
        super().__init__(inner)
        if inner.server.uplinks:
            raise UsageError(
                f"gradient-pruning prunes the update, but the local rule {type(inner).__name__} also sends"
                f" {', '.join(inner.server.uplinks)}, which would tell what was pruned; choose another rule"
            )
        self.ratio = ratio
        self._kept: frozenset[str] = frozenset()

    def personal(self, parameters: State, generator: torch.Generator) -> State:
        own = super().personal(parameters, generator)
        self._kept = frozenset(own)
        return own

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        sent = self.inner.finish(anchor, parameters, work, carry)
        delta = {name: sent.parameters[name] - anchor[name] for name in anchor if name not in self._kept}
        sizes = torch.cat([value.reshape(-1).abs() for value in delta.values()])
        kept = sizes.numel() - int(self.ratio * sizes.numel())
        threshold = sizes.topk(kept).values[-1]
        pruned = {
            name: torch.where(value.abs() >= threshold, sent.parameters[name], anchor[name])
            for name, value in delta.items()
        }
        return sent._replace(parameters=sent.parameters | pruned)
