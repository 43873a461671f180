"""The contract of membership inference: was this record among a client's? One method to write.

A server that holds candidate records asks of each whether the client trained on it. It gets the client's
observations over rounds and the candidates, at most half of which (nobody says which) are the client's own;
it answers with a score each, higher for "member". Scores of one client are ranked; those of several clients
are brought to a common scale by median and interquartile range before they are pooled.

Observations that say nothing (not finite, zero) are left out; if none is left, the attack is not asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from fedlab.audit.attack import Report, silent
from fedlab.audit.checks import check_observation
from fedlab.audit.observation import Observation
from fedlab.audit.threat import Knowledge, ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import MissingKnowledge, NotApplicable, PluginError


@dataclass(frozen=True, eq=False)
class Candidates:
    """Records that may be a client's: (N, C, H, W) in [0, 1] and (N,) labels. Not which of them are."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class MembershipAttack(ABC):
    """Scores candidate records by how likely a client trained on them.

    Class attributes:
        needs: knowledge without which the attack does not run.
        paper: citation of where the attack comes from.
    """

    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    paper: ClassVar[str] = ""

    @final
    def __call__(
        self,
        observations: Sequence[Observation],
        others: Sequence[Observation],
        candidates: Candidates,
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report = silent,
    ) -> Tensor:
        """(N,) float64 scores of the candidates; higher means member.

        Args:
            observations: the target client's, by round.
            others: those of other clients in the same rounds, for attacks that compare.

        Raises:
            MissingKnowledge: the threat model denies something in `needs`.
            NotApplicable: no usable observation, or a part of the model stays with the clients.
            PluginError: the answer breaks the contract.
        """
        who = type(self).__name__
        if victim.personal:
            raise NotApplicable(
                "a part of the model stays with the clients"
                f" ({', '.join(sorted(victim.personal)[:3])}, ...), and the attack needs the whole of it"
            )
        missing = sorted(item for item in self.needs if not threat.grants(item))
        if missing:
            raise MissingKnowledge(
                f"needs {', '.join(missing)}, which the threat model denies; grant it in the threat"
                " model, or choose an attack that does without"
            )
        if not observations:
            raise NotApplicable("the target client sent no update in the observed rounds")
        usable, errors = _usable(observations, victim)
        if not usable:
            raise errors[0]
        scores = self.run(
            [threat.view(one) for one in usable],
            [threat.view(one) for one in _usable(others, victim)[0]],
            candidates,
            threat,
            threat.public(victim),
            generator=generator,
            report=report,
        )
        found: object = scores
        if not isinstance(found, Tensor) or found.shape != (len(candidates),):
            raise PluginError(f"{who} returned {found!r}; expected a ({len(candidates)},) tensor of scores")
        if not bool(torch.isfinite(scores).all()):
            raise PluginError(f"{who} returned scores that are not finite; rank such records last instead")
        return scores.detach().cpu().double()

    @abstractmethod
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
        """(N,) scores. All randomness comes from `generator`."""


def _usable(
    observations: Sequence[Observation], victim: Victim
) -> tuple[list[Observation], list[NotApplicable]]:
    """The observations that can be used, and why the others cannot."""
    usable, errors = [], []
    for one in observations:
        try:
            check_observation(one, victim)
            usable.append(one)
        except NotApplicable as error:
            errors.append(error)
    return usable, errors
