"""Attack jobs: an attack on one cell's victims and on their null controls.

A job is sent to a worker; it holds observations and public knowledge, and no truth. Scoring happens
here, in the driver, when the answers are back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.audit import Attack, Observation, Reconstruction, ThreatModel, Victim, random_twin
from fedlab.audit.disclosure import NOTHING
from fedlab.audit.scoring import NO_ANSWER, Choice, choose_victims, score
from fedlab.audit.truth import Truth
from fedlab.errors import MissingKnowledge, NotApplicable
from fedlab.experiment.cells import Trained
from fedlab.experiment.granting import folded, masks_of, proxy_of, steps_of
from fedlab.scenario import Scenario
from fedlab.tasks import State


@dataclass(frozen=True)
class AttackJob:
    """Everything that an attacker has, and a seed of its own."""

    cell: str
    label: str
    attack: Attack
    observations: Sequence[Observation]
    threat: ThreatModel
    victim: Victim
    seed: int
    under: str = ""
    """Label of the threat; "" for the one of `[threat]`."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Victims, by place, that did not answer a malicious server, and why: they have no observation."""
    answered: AttackAnswer | None = None
    """What became of it if it ended before it began: no client could be asked."""

    def aligned(self, answers: Sequence[Reconstruction]) -> list[Reconstruction]:
        """One answer per victim: those to the observations, and refusals of clients in their places."""
        left = iter(answers)
        return [
            Reconstruction(refusal=f"{NO_ANSWER}{self.refused[place]}")
            if place in self.refused
            else next(left)
            for place in range(len(self.observations) + len(self.refused))
        ]

    @property
    def title(self) -> str:
        return f"attack {self.cell} with {self.label}" + (f" under {self.under}" if self.under else "")


@dataclass(frozen=True)
class AttackAnswer:
    """Reconstructions of the victims and of the controls, or why there are none.

    `failed`: the attack broke down or broke its contract, which says nothing about what leaks; without
    it an `error` is a refusal (denied knowledge, a network that it does not apply to).
    """

    victims: Sequence[Reconstruction]
    control: Sequence[Reconstruction]
    error: str | None = None
    failed: bool = False


def attack(job: AttackJob, report: Callable[[int, int], None]) -> AttackAnswer:
    """Run one job; an attack that fails says why, and the audit goes on with the others."""
    if job.answered is not None:
        return job.answered
    if job.victim.personal and not job.attack.personal:
        kept = ", ".join(sorted(job.victim.personal)[:3])
        return AttackAnswer(
            [], [], f"not applicable: a part of the model stays with the clients ({kept}, ...)"
        )
    job = copy.deepcopy(job)  # what one attack does to its observations must not reach the next
    twins = [
        random_twin(one, seeds.torch_generator(job.seed, "null", one.round, one.client))
        for one in job.observations
    ]

    def run(what: Sequence[Observation], purpose: str, half: int) -> list[Reconstruction]:
        return job.aligned(
            job.attack(
                what,
                job.threat,
                job.victim,
                generator=seeds.torch_generator(job.seed, purpose, job.label),
                report=lambda done, total: report(done + half * total, 2 * total),
            )
        )

    try:
        return AttackAnswer(run(job.observations, "attack", 0), run(twins, "control", 1))
    except (MissingKnowledge, NotApplicable) as error:
        return AttackAnswer([], [], str(error))
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        return AttackAnswer([], [], f"the attack failed: {type(error).__name__}: {error}", failed=True)


def lost(job: AttackJob, reason: str) -> AttackAnswer:
    """The answer of an attack that took its worker down with it."""
    return AttackAnswer([], [], f"the attack failed: it killed its worker each time: {reason}", failed=True)


@dataclass(frozen=True)
class Victims:
    """The observations that are attacked in one cell, and the truth behind them."""

    choice: Choice
    observations: Sequence[Observation]
    truths: Sequence[Truth]

    def to_dict(self, hashes: Callable[[Truth], list[str]]) -> dict[str, Any]:
        """Record ids, labels and hashes for truth/<cell>.json; no pixel."""
        return {
            "victims": [
                {
                    "round": truth.round,
                    "client": truth.client,
                    "record_ids": list(truth.record_ids),
                    "labels": truth.labels.tolist(),
                    "hashes": hashes(truth),
                    **({"clients": [part.client for part in one.parts]} if one.parts else {}),
                }
                for one, truth in zip(self.observations, self.truths, strict=True)
            ],
            "observed": self.choice.observed,
            "empty": self.choice.empty,
            "eligible": self.choice.eligible,
        }

    def images(self) -> State:
        """Pixels by "<round>-<client>", for runs that may keep them."""
        return {f"{truth.round}-{truth.client}": truth.images for truth in self.truths}


def choose(trained: Trained, observations: Sequence[Observation], scenario: Scenario) -> Victims:
    """Draw the victims among one cell's observations, and look up what they used.

    Under Poisson sampling with an expected batch of one record, only rounds whose realised batch was
    one record are eligible: the case that suits the attacker best. The attacker does not see which. (Of sums
    of several clients' updates, all are.) Of a client that was sent one model several times, only the first
    update is. What the scenario's `[threat]` grants comes with them.
    """
    config, seed, threat = trained.config, trained.cell.seed, scenario.threat
    if threat.sums:
        observations = folded(observations, config)
    observations = [one for one in observations if not one.repeat]
    used = [_records(trained, one) for one in observations]
    summed = any(one.parts for one in observations)
    single = config.sampling == "poisson" and config.batch_size == 1 and not summed
    choice = choose_victims(
        used,
        scenario.audit.victims,
        generator=seeds.torch_generator(seed, "victims"),
        batch_size=1 if single else None,
    )
    chosen = [observations[index] for index in choice.indices]
    truths = [_truth(trained, one, used[index]) for one, index in zip(chosen, choice.indices, strict=True)]
    if threat.labels:
        chosen = [replace(one, labels=truth.labels) for one, truth in zip(chosen, truths, strict=True)]
    if threat.dropout_masks:
        chosen = [replace(one, masks=masks_of(trained, one)) for one in chosen]
    return Victims(choice, chosen, truths)


def public(trained: Trained, victims: Victims, scenario: Scenario) -> tuple[Victim, ThreatModel]:
    """What anybody knows of a cell, and what this attacker does; data of its own only if there are any."""
    task, threat = trained.task, threat_model(scenario, trained)
    proxy = proxy_of(trained, victims.truths) if threat.proxy_data else None
    victim = Victim(
        trained.model,
        task.loss,
        task.input_shape,
        task.classes,
        trained.personal,
        proxy,
        trained.disclosure if threat.defense else NOTHING,
    )
    return victim, replace(threat, proxy_data=proxy is not None)


def scored(job: AttackJob, answer: AttackAnswer, truths: Sequence[Truth]) -> dict[str, Any]:
    """Join answers with the truth: the content of attacks/<cell>/<label>.json."""
    attack = job.attack
    return {
        "attack": job.label,
        "paper": attack.paper,
        "needs": sorted(attack.needs),
        "server": attack.server,
        "threat": asdict(job.threat),
        "threat_label": job.under,
        "chosen": len(truths),
        "error": answer.error,
        "failed": answer.failed,
        "victims": _scores(answer.victims, truths),
        "control": _scores(answer.control, truths),
    }


def _scores(answers: Sequence[Reconstruction], truths: Sequence[Truth]) -> list[dict[str, Any]]:
    """One score per answer; an attack that failed has none."""
    return [score(one, truth).to_dict() for one, truth in zip(answers, truths, strict=bool(answers))]


def images_of(answer: AttackAnswer, truths: Sequence[Truth]) -> State:
    """Reconstructed pixels by "victim/<round>-<client>" and "control/<round>-<client>"."""
    return {
        f"{kind}/{truth.round}-{truth.client}": one.images.clone()
        for kind, answers in (("victim", answer.victims), ("control", answer.control))
        for one, truth in zip(answers, truths, strict=bool(answers))
        if one.images is not None
    }


def threat_model(scenario: Scenario, trained: Trained) -> ThreatModel:
    """What the scenario's `[threat]` grants the attacker against this cell's clients."""
    granted = scenario.threat.model_dump(exclude={"level", "client_mode_known"})
    return ThreatModel(
        client_mode=trained.cell.mode if scenario.threat.client_mode_known else None, **granted
    )


def _records(trained: Trained, one: Observation) -> NDArray[np.int64]:
    """Ids of the records behind an observation, each once; of a sum, those of all its clients."""
    steps = [ids for part in one.parts or (one,) for ids in steps_of(trained, part)]
    return np.asarray(np.unique(np.concatenate(steps)), dtype=np.int64)


def _truth(trained: Trained, one: Observation, ids: NDArray[np.int64]) -> Truth:
    data = trained.task.train
    images, labels = data.images(ids), data.labels(ids)
    return Truth(one.round, one.client, tuple(int(i) for i in ids), images, labels, data.pixels)
