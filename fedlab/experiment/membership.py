"""Membership jobs: what a membership attack is handed, and what its answers are worth.

Who is asked about which records is drawn in `fedlab.experiment.questions`. A job holds no truth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fedlab import seeds
from fedlab.audit import Observation, ThreatModel, Victim, random_twin
from fedlab.audit.membership import MembershipAttack
from fedlab.errors import MissingKnowledge, NotApplicable
from fedlab.experiment.questions import Questions, Target

TICKS = 1000


@dataclass(frozen=True)
class MembershipJob:
    """Everything that an attacker has, and a seed of its own."""

    cell: str
    label: str
    attack: MembershipAttack
    targets: Sequence[Target]
    threat: ThreatModel
    victim: Victim
    seed: int
    under: str = ""

    @property
    def title(self) -> str:
        return f"ask {self.cell} with {self.label}" + (f" under {self.under}" if self.under else "")


@dataclass(frozen=True)
class MembershipAnswer:
    """Scores of each target's candidates and of their null controls; None where the attack declined.

    Attributes:
        refusals: per target why it declined, or None.
        error: why there is no answer at all; failed: it broke down, which says nothing about what leaks.
    """

    scores: Sequence[Tensor | None] = ()
    control: Sequence[Tensor | None] = ()
    refusals: Sequence[str | None] = ()
    error: str | None = None
    failed: bool = False


def infer(job: MembershipJob, report: Callable[[int, int], None]) -> MembershipAnswer:
    """Run one job; an attack that fails says why, and the audit goes on with the others."""
    job = copy.deepcopy(job)  # what one attack does to its observations must not reach the next
    total = 2 * len(job.targets)
    scores: list[Tensor | None] = []
    control: list[Tensor | None] = []
    refusals: list[str | None] = []
    try:
        if not job.targets:
            raise NotApplicable(
                "nobody to ask about: no target client, or no test record with a label of its records is"
                " left beside the attacker's own (of an app, none is known that its clients did not use)"
            )
        for index, target in enumerate(job.targets):
            found: list[Tensor | None] = []
            reason: str | None = None
            for kind, observations in enumerate((target.observations, _twins(job, target))):
                at = 2 * index + kind

                def tick(done: int, of: int, at: int = at) -> None:
                    report(round((at + done / max(of, 1)) * TICKS), total * TICKS)

                try:
                    found.append(_asked(job, target, observations, "control" if kind else "attack", tick))
                except NotApplicable as error:
                    found.append(None)
                    reason = reason or str(error)
            scores.append(found[0])
            control.append(found[1])
            refusals.append(reason)
        return MembershipAnswer(scores, control, refusals, _declined(scores, refusals))
    except (MissingKnowledge, NotApplicable) as error:
        return MembershipAnswer(error=str(error))
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return MembershipAnswer(error=f"the attack failed: {type(error).__name__}: {error}", failed=True)


def _asked(
    job: MembershipJob,
    target: Target,
    observations: Sequence[Observation],
    purpose: str,
    report: Callable[[int, int], None],
) -> Tensor:
    return job.attack(
        observations,
        target.others,
        target.candidates,
        job.threat,
        job.victim,
        generator=seeds.torch_generator(job.seed, purpose, job.label, *target.clients),
        report=report,
    )


def _twins(job: MembershipJob, target: Target) -> list[Observation]:
    return [
        random_twin(one, seeds.torch_generator(job.seed, "null", one.round, one.client, one.repeat))
        for one in target.observations
    ]


def _declined(scores: Sequence[Tensor | None], refusals: Sequence[str | None]) -> str | None:
    """Why there is no score of anybody, if so."""
    if any(one is not None for one in scores):
        return None
    return "; ".join(dict.fromkeys(one for one in refusals if one))


def lost(reason: str) -> MembershipAnswer:
    """The answer of an attack that took its worker down with it."""
    return MembershipAnswer(error=f"the attack failed: it killed its worker each time: {reason}", failed=True)


def scored(job: MembershipJob, answer: MembershipAnswer, asked: Questions) -> dict[str, Any]:
    """Join scores with the truth: the content of attacks/<cell>/<label>.json. No record is named."""
    targets = [
        {
            "clients": list(target.clients),
            "rounds": [one.round for one in target.observations],
            "member": [int(one) for one in asked.members[index].tolist()],
            "scores": _plain(answer.scores[index]),
            "control": _plain(answer.control[index]),
            "label_control": _plain(asked.shares[index]),
            "refusal": answer.refusals[index],
        }
        for index, target in enumerate(job.targets if answer.scores else ())
    ]
    return {
        "kind": "membership",
        "attack": job.label,
        "paper": job.attack.paper,
        "needs": sorted(job.attack.needs),
        "threat": asdict(job.threat),
        "threat_label": job.under,
        "chosen": len(asked.members),
        "dropped": asked.dropped,
        "error": answer.error,
        "failed": answer.failed,
        "targets": targets,
    }


def _plain(scores: Tensor | None) -> list[float] | None:
    return None if scores is None else [float(one) for one in scores.tolist()]
