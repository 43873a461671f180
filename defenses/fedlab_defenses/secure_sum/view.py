"""Secure aggregation as a view: what a server sees that can open sums of updates, and no single one.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017, https://dl.acm.org/doi/10.1145/3133956.3133982; under an
asynchronous server with buffers Huba et al., "Papaya: Practical, Private, and Scalable Federated Learning",
MLSys 2022, https://arxiv.org/abs/2111.04877.

    seen = Σ_i w_i Δ_i / Σ_i w_i   of at least `threshold` updates; w_i: staleness times records (or 1).

Nothing is masked here and the model is the same to the last bit: what changes is what is written down for
attackers. Of each server update there is one observation, the sum, in which everything of a client is
multiplied by its staleness weight already, as clients (or an enclave) must do before masking. Figures such
as the loss are summed as well. Fewer than `threshold` updates are not opened, and make no model.

`secagg-plus` (`fedlab_defenses.secure_sum.masked`) carries the protocol out: masks, drop-outs, rounding and
messages, under a synchronous server, for some 5 ms of a core for each client and round (an MLP, cohorts of
20). What its server sees is this view within rounding; take the view to attack sums, under an asynchronous
server, or where adversaries craft updates.

What a real protocol forbids is refused: aggregators that compare updates, local rules that send more than
an update. What it could not do is not prevented: the guard still looks at single updates (finite, length),
which a server under secure aggregation cannot; there such checks need proofs by the clients.

No ε: a sum of updates is a function of the data without noise. How much it tells, the attacks say.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, Ledger
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.aggregators import AggregatorState, FunctionAggregator, mean
from fedlab.strategies.aggregators.contract import coordinatewise_of
from fedlab_defenses.privacy.central import mean_only, plain_server


class SecureAggregation(Defense):
    """The server sees Σ w_i Δ_i of at least `threshold` updates, and none of them.

    Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017,
    https://dl.acm.org/doi/10.1145/3133956.3133982.

    A view, for attacks on what such a server holds: nothing is masked, and no traffic is counted for it.
    `secagg-plus` is the protocol itself.

    Args:
        threshold: updates that a sum has at least; with fewer there is no sum and no model. Two thirds of
            the cohort unless given, the share that such protocols let drop out being a third.
    """

    paper = (
        "Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017,"
        " https://dl.acm.org/doi/10.1145/3133956.3133982"
    )
    sees = "sums"
    adaptive = ("cascade", "inverting-gradients")  # a sum of updates is the update of one larger batch
    example: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, threshold: Annotated[int, Field(ge=1)] | None = None) -> None:
        if threshold is not None and threshold < 1:
            raise UsageError(f"secure-aggregation threshold = {threshold}; expected at least 1 update")
        self.threshold = threshold

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        plain_server("secure-aggregation", rule)
        return rule

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        mean_only("secure-aggregation", inner)
        threshold = math.ceil(2 * federation.cohort / 3) if self.threshold is None else self.threshold
        if threshold > federation.cohort:
            raise UsageError(
                f"secure-aggregation threshold = {threshold}, but a sum has {federation.cohort} updates;"
                " lower it, or raise strategy.cohort"
            )
        return Opened(inner, threshold)

    def guarantee(self, ledger: Ledger) -> Guarantee:
        """None, and why."""
        return Guarantee(
            mechanism="secure aggregation, as a view: the server sees sums of updates",
            epsilon=None,
            delta=0.0,
            unit="one client",
            adjacency="none",
            accountant="none",
            noise="none",
            assumptions=(
                Assumption(
                    "the server sees no sum of fewer updates than the threshold (a sum of one is that update;"
                    " two of one client count as two)",
                    True,
                ),
                Assumption("staleness weights are applied before updates are summed", True),
            ),
            reason=(
                "secure aggregation alone gives no ε: a sum of updates has no noise in it. Nor could a server"
                " that sees only sums turn away single updates, as the guard does in this simulation"
            ),
        )


class Opened:
    """The mean of at least so many updates."""

    def __init__(self, inner: Aggregator, threshold: int) -> None:
        self.inner, self.minimum = inner, threshold
        self.name = "secure-aggregation"
        self.coordinatewise = coordinatewise_of(inner)
        self.counts_alike = isinstance(inner, FunctionAggregator) and inner.plain is mean

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        return self.inner.aggregate(updates, state)
