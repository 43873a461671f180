"""Membership by loss: a client's update lowers the loss of the records that it was trained on.

S. Yeom, I. Giacomelli, M. Fredrikson and S. Jha, "Privacy Risk in Machine Learning: Analyzing the Connection
to Overfitting", CSF 2018, https://arxiv.org/abs/1709.01604, threshold the loss ("after" here). A server in
federated learning also holds the model from which the client started, hence the default: the loss before
minus the loss after. Both are summed over the observed rounds.

Deviation: evaluation mode throughout, though clients may train with dropout and batch statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from fedlab.audit.attack import Report
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import UsageError
from fedlab_attacks.membership.measures import losses, sent, updated
from fedlab_attacks.membership.rounds import over_rounds

Statistic = Literal["difference", "ratio", "after"]
SMALLEST = 1e-12


class LossMembership(MembershipAttack):
    """Scores a record by what the update did to its loss.

    Args:
        statistic: "difference" of the losses before and after, logarithm of their "ratio", or minus the loss
            "after".
        against_others: measure it against what other clients' updates do to the same record.

    Raises:
        UsageError: no such statistic.
    """

    paper: ClassVar[str] = "Yeom et al., Privacy Risk in Machine Learning, CSF 2018"

    def __init__(self, *, statistic: Statistic = "difference", against_others: bool = False) -> None:
        if statistic not in get_args(Statistic):
            raise UsageError(
                f'LossMembership: statistic = {statistic!r}; expected "difference", "ratio" or "after"'
            )
        self.statistic, self.against_others = statistic, against_others

    def run(
        self,
        observations: Sequence[Observation],
        others: Sequence[Observation],
        candidates: Candidates,
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> Tensor:
        def measure(one: Observation, beside: Sequence[Observation]) -> Tensor:
            after = torch.stack(
                [losses(victim, updated(one, by), candidates) for by in (one, *beside)]
            ).nan_to_num(nan=torch.finfo(torch.float32).max)
            if self.statistic == "after":
                return -after
            before = losses(victim, sent(one), candidates)
            if self.statistic == "ratio":
                return before.clamp(min=SMALLEST).log() - after.clamp(min=SMALLEST).log()
            return before - after

        return over_rounds(observations, others, measure, report, against_others=self.against_others)
