"""LiRA: how much likelier is the confidence that the update leaves, if the client held the record?

N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis and F. Tramèr, "Membership Inference Attacks From First
Principles", IEEE S&P 2022, https://arxiv.org/abs/2112.03570, algorithm 1 (online). Per round, shadow clients
are trained from the model that the server sent, on proxy data and random parts of the candidates
(`shadows.py`); a record's logit-scaled confidence log(p / (1 - p)) after the update is compared with those of
shadows that held the record and of shadows that did not, each taken for normal:

    score = log N(c; mean_in, s^2) - log N(c; mean_out, s^2), summed over rounds

Deviations: a shadow is one local update, not a training from scratch, because that is what the server sees;
one variance s^2 for both sides and all records of a round (the paper's advice for few shadows, taken further:
with a variance for each side, far-out scores of either sign look like membership); the differences mean_in -
mean_out are shrunk towards their average by as much of their spread as the number of shadows explains (James
and Stein); no augmented copies; a shadow client of n records holds fewer than half of the candidates where
these are more than n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Report
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab_attacks.membership.measures import confidences, logits, updated
from fedlab_attacks.membership.shadows import holdings, shadow_logits

MOST = 30.0
"""Confidences beyond this many logits either way are cut: float32 says no more about them."""


class LiRA(MembershipAttack):
    """Likelihood ratio against shadow clients.

    Args:
        shadows: shadow clients per observed round.

    Raises:
        UsageError: fewer than 4 shadows.
    """

    needs: ClassVar = frozenset({"proxy_data", "learning_rate", "local_steps", "batch_size"})
    paper: ClassVar[str] = "Carlini et al., Membership Inference Attacks From First Principles, IEEE S&P 2022"

    def __init__(self, *, shadows: int = 64) -> None:
        if shadows < 4:
            raise UsageError(f"LiRA: shadows = {shadows}; expected at least 4")
        self.shadows = shadows

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
        if victim.proxy is None:
            raise NotApplicable("the attacker was granted proxy data, but has none: give it some records")
        total, done = torch.zeros(len(candidates), dtype=torch.float64), 0
        for one in observations:
            if not one.examples:
                raise NotApplicable("the client did not say how many records it holds; shadows have no size")
            held = holdings(
                self.shadows, one.examples, len(candidates), len(victim.proxy.labels), generator=generator
            )
            found = []
            for outputs in shadow_logits(
                one, candidates, victim.proxy, victim, threat, held, generator=generator
            ):
                found.append(_bounded(confidences(outputs, candidates.labels)))
                done += len(outputs)
                report(done, self.shadows * len(observations))
            own = _bounded(confidences(logits(victim, updated(one), candidates), candidates.labels))
            total = total + likelihood_ratio(own, torch.cat(found), held.inside)
        return total


def likelihood_ratio(own: Tensor, shadows: Tensor, inside: Tensor) -> Tensor:
    """(N,) log-likelihood ratio of `own` (N,), in against out, with one common variance.

    Args:
        shadows: (S, N) confidences; inside: (S, N) whether the shadow held the record.

    A record that all shadows or none held has a ratio of 0: nothing can be said of it.
    """
    held, not_held = inside.sum(0).clamp(min=1), (~inside).sum(0).clamp(min=1)
    known = inside.any(0) & ~inside.all(0)
    mean_out = torch.where(inside, 0.0, shadows).sum(0) / not_held
    gain = torch.where(inside, shadows, 0.0).sum(0) / held - mean_out
    rest = shadows - mean_out - torch.where(inside, gain, 0.0)
    variance = (rest.square().sum() / max(1, shadows.numel() - 2 * shadows.shape[1])).clamp(min=1e-12)
    if int(known.sum()) > 1:
        noise = (variance * (1 / held + 1 / not_held))[known].mean()
        common, spread = gain[known].mean(), gain[known].var()
        gain = common + (1.0 - noise / spread.clamp(min=1e-12)).clamp(min=0.0) * (gain - common)
    return torch.where(known, gain * (own - mean_out - gain / 2) / variance, 0.0)


def _bounded(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=0.0, posinf=MOST, neginf=-MOST).clamp(-MOST, MOST)
