"""From a statistic per round to one score per record: sums over rounds, against other clients or not.

Against others: what the updates of clients who do not hold a record do to it is its own null distribution
(G. Zhu et al., "FedMIA: An Effective Membership Inference Attack Exploiting 'All for One' Principle in
Federated Learning", CVPR 2025, https://arxiv.org/abs/2402.06289). Records differ in how hard they are, and
that difference is taken out.

Deviations: a round's score is the distance to that distribution's mean in standard deviations, not the tail
probability, which is 1 to the last bit just where it matters; one deviation serves all records of a round
(from few clients a record's own is mostly noise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedlab.audit.attack import Report
from fedlab.audit.observation import Observation
from fedlab.errors import NotApplicable

Measure = Callable[[Observation, Sequence[Observation]], Tensor]
"""(1 + K, N) statistics of N records: of the target's update, then of K others', at the target's model."""


def over_rounds(
    observations: Sequence[Observation],
    others: Sequence[Observation],
    measure: Measure,
    report: Report,
    *,
    against_others: bool,
) -> Tensor:
    """(N,) sum of the statistics over the target's rounds.

    Raises:
        NotApplicable: to be measured against others, but fewer than two sent an update in a round.
    """
    total: Tensor | None = None
    for done, one in enumerate(observations, start=1):
        beside = [other for other in others if other.round == one.round] if against_others else []
        if against_others and len(beside) < 2:
            raise NotApplicable(
                f"to be measured against others, but {len(beside)} other updates were seen in round"
                f" {one.round}; expected at least 2: observe larger cohorts, or set against_others = false"
            )
        found = measure(one, beside)
        score = distance(found[0], found[1:]) if against_others else found[0]
        total = score if total is None else total + score
        report(done, len(observations))
    if total is None:
        raise NotApplicable("the target client sent no update in the observed rounds")
    return total


def distance(own: Tensor, others: Tensor) -> Tensor:
    """(N,) how far `own` (N,) lies above the mean of `others` (K, N), in their common standard deviation."""
    spread = others.var(dim=0, unbiased=True).mean().sqrt()
    # Where the others agree on every record, the differences speak for themselves.
    if not float(spread) > 0.0:
        spread = torch.ones_like(spread)
    return (own - others.mean(dim=0)) / spread
