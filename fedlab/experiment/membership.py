"""Membership jobs: whom a membership attack is asked about, and what its answers are worth.

A target is a client of one of the victims, with all of its observed updates. It is asked about records that
the client used in those rounds (members) and at least as many that nobody used (non-members). Non-members are
drawn from the test records: where train and test records come from one source and were split at random,
nothing but training tells them apart; where they do not, an attack may see the difference between the two
sets instead, and the report says so. Each test record is asked about once in a cell, and never belongs to the
attacker's own data.

The candidates are shuffled by the seed; which of them are members stays here. A job holds no truth.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import seeds
from fedlab.audit import Observation, Proxy, ThreatModel, Victim, random_twin
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.errors import MissingKnowledge, NotApplicable
from fedlab.experiment.cells import Trained
from fedlab.experiment.granting import folded, steps_of
from fedlab.scenario import Scenario
from fedlab.tasks import Records

TICKS = 1000


@dataclass(frozen=True)
class Target:
    """One client, or several of whom only the sum is seen, and the records that are asked about.

    Attributes:
        clients: who it is.
        observations: its own, by round; others: those of everybody else in the same rounds.
    """

    clients: tuple[int, ...]
    observations: Sequence[Observation]
    others: Sequence[Observation]
    candidates: Candidates


@dataclass(frozen=True)
class Questions:
    """What all membership attacks on one cell under one threat are asked.

    Attributes:
        targets: without any truth.
        members: per target (N,) whether each candidate was used; for scoring only.
        victim: public knowledge; its proxy data hold no candidate.
        threat: grants proxy data only if some are left.
    """

    targets: Sequence[Target]
    members: Sequence[Tensor]
    victim: Victim
    threat: ThreatModel


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
                "nobody to ask about: no target client, or no record of the test set is left beside the"
                " attacker's own"
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


def scored(job: MembershipJob, answer: MembershipAnswer, members: Sequence[Tensor]) -> dict[str, Any]:
    """Join scores with the truth: the content of attacks/<cell>/<label>.json. No record is named."""
    targets = [
        {
            "clients": list(target.clients),
            "rounds": [one.round for one in target.observations],
            "member": [int(one) for one in members[index].tolist()],
            "scores": _plain(answer.scores[index]),
            "control": _plain(answer.control[index]),
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
        "chosen": len(members),
        "error": answer.error,
        "failed": answer.failed,
        "targets": targets,
    }


def _plain(scores: Tensor | None) -> list[float] | None:
    return None if scores is None else [float(one) for one in scores.tolist()]


def questions(
    trained: Trained,
    observed: Sequence[Observation],
    victims: Sequence[Observation],
    victim: Victim,
    threat: ThreatModel,
    scenario: Scenario,
) -> Questions:
    """Draw what is asked about the clients of `victims`, each once.

    Args:
        observed: all observations of the cell.
        victim: with the attacker's proxy data, if it has any; candidates are taken out of them.
        scenario: facing one threat.
    """
    seen = folded(observed, trained.config) if scenario.threat.sums else observed
    whom = list(dict.fromkeys(_clients(one) for one in victims))
    pool = _pool(trained, half=victim.proxy is not None)
    share = min(len(pool) // max(1, len(whom)), scenario.audit.candidates)
    targets, members, asked = [], [], []
    for place, clients in enumerate(whom):
        own = [one for one in seen if _clients(one) == clients]
        rounds = {one.round for one in own}
        others = [one for one in seen if one.round in rounds and not one.repeat and _clients(one) != clients]
        generator = seeds.numpy_generator(trained.cell.seed, "candidates", *clients)
        used = generator.permutation(_used(trained, own))
        inside = used[: min(scenario.audit.candidates // 2, share)]
        outside = pool[place * share :][: min(share, scenario.audit.candidates - len(inside))]
        order = torch.from_numpy(generator.permutation(len(inside) + len(outside)))
        train, test = trained.task.train, trained.task.test
        everything = Candidates(
            torch.cat([train.images(inside), test.images(outside)])[order],
            torch.cat([train.labels(inside), test.labels(outside)])[order],
        )
        if len(inside) and len(outside):
            targets.append(Target(clients, own, others, everything))
            members.append((torch.arange(len(order)) < len(inside))[order])
            asked.append(outside)
    taken = np.concatenate(asked) if asked else np.empty(0, dtype=np.int64)
    victim = _without(victim, trained.task.test, taken)
    threat = replace(threat, proxy_data=threat.proxy_data and victim.proxy is not None)
    return Questions(targets, members, victim, threat)


def _clients(one: Observation) -> tuple[int, ...]:
    """Who is behind an observation."""
    return tuple(sorted({part.client for part in one.parts})) or (one.client,)


def _used(trained: Trained, observations: Sequence[Observation]) -> NDArray[np.int64]:
    """Ids of the records behind observations, each once."""
    steps = [ids for one in observations for part in one.parts or (one,) for ids in steps_of(trained, part)]
    return np.asarray(np.unique(np.concatenate(steps)), dtype=np.int64)


def _pool(trained: Trained, *, half: bool) -> NDArray[np.int64]:
    """Test records to ask about; only half of them where the attacker needs some for itself."""
    test = trained.task.test
    order = seeds.numpy_generator(trained.cell.seed, "non-members").permutation(len(test))
    return np.asarray(order[: len(order) // 2 if half else None], dtype=np.int64)


def _without(victim: Victim, test: Records, taken: NDArray[np.int64]) -> Victim:
    """The victim with proxy data of which none is asked about."""
    if victim.proxy is None or not len(taken):
        return victim
    asked = {image.numpy().tobytes() for image in test.images(taken)}
    kept = torch.tensor([image.numpy().tobytes() not in asked for image in victim.proxy.images])
    left = Proxy(victim.proxy.images[kept], victim.proxy.labels[kept]) if bool(kept.any()) else None
    return replace(victim, proxy=left)
