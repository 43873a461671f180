"""Membership by gradient: an update is a sum of its records' gradients, and points along each of them.

In overparameterised networks the gradients of different records are nearly orthogonal, so that the inner
product of a record's gradient g with the update finds g's own share in it. J. Li, N. Li and B. Ribeiro,
"Effective Passive Membership Inference Attacks in Federated Learning Against Overparameterized Models",
submitted to ICLR 2023, https://openreview.net/forum?id=QsCSLPP55Ku. Two of their statistics, with u the sum
of the used records' gradients as the update tells it:

    cosine   <u, g> / (|u| |g|)
    norm     |u|^2 - |u - g|^2 = 2 <u, g> - |g|^2

The second is |g|^2 for members and -|g|^2 for others where gradients are orthogonal.

Needs no shadow model. Deviations: gradients are taken at the model that the server sent, in evaluation mode;
several local steps are read as one over all their records (momentum and weight decay are left in); rounds are
summed.
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
from fedlab.errors import MissingKnowledge, UsageError
from fedlab.tasks import State
from fedlab_attacks.membership.measures import alignments, sent
from fedlab_attacks.membership.rounds import over_rounds
from fedlab_attacks.reading import batch_size, steps

Statistic = Literal["cosine", "norm"]


class GradientMembership(MembershipAttack):
    """Scores a record by how far the update goes along its gradient.

    Args:
        statistic: "cosine" of the two, or the difference of squared "norm"s, which needs the batch size and
            the learning rate.
        against_others: measure it against other clients' updates, for the same record.

    Raises:
        UsageError: no such statistic.
    """

    paper: ClassVar[str] = "Li, Li and Ribeiro, Effective Passive Membership Inference Attacks, 2023"

    def __init__(self, *, statistic: Statistic = "cosine", against_others: bool = False) -> None:
        if statistic not in get_args(Statistic):
            raise UsageError(f'GradientMembership: statistic = {statistic!r}; expected "cosine" or "norm"')
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
        if self.statistic == "norm" and not (threat.grants("batch_size") and threat.grants("learning_rate")):
            raise MissingKnowledge(
                'GradientMembership with statistic = "norm" needs batch_size and learning_rate, which the'
                ' threat model denies; grant them, or set statistic = "cosine"'
            )

        def measure(one: Observation, beside: Sequence[Observation]) -> Tensor:
            directions = [summed_gradients(by, threat, victim) for by in (one, *beside)]
            products, norms = alignments(victim, sent(one), candidates, directions)
            if self.statistic == "norm":
                return 2.0 * products - norms
            sizes = [sum(float(v.double().square().sum()) for v in each.values()) for each in directions]
            lengths = torch.outer(torch.tensor(sizes).double(), norms).sqrt()
            return torch.where(lengths > 0.0, products / lengths, 0.0)

        return over_rounds(observations, others, measure, report, against_others=self.against_others)


def summed_gradients(observation: Observation, threat: ThreatModel, victim: Victim) -> State:
    """The sum of the used records' gradients, as far as the update and what is known of the training tell.

    A record enters the sum of k steps' mean gradients with the weight k / (records used).
    """
    weight = steps(observation) / (batch_size(observation, threat) or 1)
    scale = -1.0 / ((observation.config.learning_rate or 1.0) * weight)
    return {name: observation.update[name] * scale for name in victim.shared}
