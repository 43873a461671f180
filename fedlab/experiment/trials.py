"""Every attack on every cell under every threat, as far as that is left; answers are scored as they come.

What the audit adds to the scenario's own trials (`pairing`) is not tried on every cell: the manifest lists it
by cell, under `paired`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedlab import seeds
from fedlab.audit import Attack, Defense, Observation, ThreatModel, Victim, archive
from fedlab.audit.membership import MembershipAttack
from fedlab.errors import NotApplicable, clause
from fedlab.experiment import membership
from fedlab.experiment.attacking import (
    AttackAnswer,
    AttackJob,
    Victims,
    attack,
    choose,
    images_of,
    lost,
    public,
    scored,
)
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.malicious import provoke
from fedlab.experiment.membership import MembershipAnswer, MembershipJob
from fedlab.experiment.pairing import UNAWARE, facing, informed, knows, untold
from fedlab.experiment.provenance import record_hashes
from fedlab.experiment.questions import Questions, questions
from fedlab.experiment.setup import Setup
from fedlab.progress import Progress, SideBySide
from fedlab.runtime import Executor
from fedlab.scenario import Scenario

Job = AttackJob | MembershipJob


@dataclass(frozen=True)
class Trial:
    """One attack under one threat.

    Attributes:
        label, plugin: of the attack.
        under: label of the threat; "" for that of `[threat]`.
        added: whether the audit adds it, on cells whose defense it is about.
    """

    label: str
    plugin: str
    attack: Attack | MembershipAttack
    under: str = ""
    added: bool = False

    @property
    def stem(self) -> str:
        """What its files are called: LABEL or LABEL@THREAT."""
        return self.label + (f"@{self.under}" if self.under else "")

    def path(self, cell: Cell) -> str:
        """Where its answer lies, without a suffix: attacks/CELL/LABEL or attacks/CELL/LABEL@THREAT."""
        return f"attacks/{cell.name}/{self.stem}"

    def meant_for(self, one: Trained, defense: Defense) -> bool:
        """Whether it is tried on a cell."""
        if not self.added:
            return True
        return bool(one.disclosure) if self.under == UNAWARE else self.plugin in defense.adaptive


def trials_of(setup: Setup) -> list[Trial]:
    """All that a scenario asks for, and what the audit adds."""
    scenario, plugin = setup.scenario, setup.plugins
    listed = [
        Trial(label, plugin[label], instance, under)
        for label, instance in setup.attacks.items()
        for under in scenario.assumed
    ]
    added = [Trial(label, plugin[label], one, added=True) for label, one in setup.adaptive.items()]
    if untold(scenario):
        added += [
            Trial(label, plugin[label], instance, UNAWARE, added=True)
            for label, instance in setup.attacks.items()
            if informed(instance)
        ]
    return listed + added


def missing(
    directory: RunDirectory, setup: Setup, cells: Sequence[Trained], trials: Sequence[Trial]
) -> list[tuple[Trial, Trained]]:
    """What is left to be tried, and on which cell."""
    return [
        (trial, one)
        for trial in trials
        for one in cells
        if trial.meant_for(one, setup.defenses[one.cell.defense])
        and not directory.has(f"{trial.path(one.cell)}.json")
    ]


def attack_cells(
    directory: RunDirectory,
    setup: Setup,
    cells: Sequence[Trained],
    trials: Sequence[Trial],
    executor: Executor,
    progress: Progress,
) -> None:
    """Run the trials that are left wherever there is room."""
    scenario = setup.scenario
    _note_added(directory, setup, cells, trials)
    left = missing(directory, setup, cells, trials)
    open_cells = {one.cell.name for _, one in left}
    # Without attacks, the truth is still written: the report says what was observed.
    due = [one for one in cells if one.cell.name in open_cells or not directory.has(_truth(one.cell))]
    observed = {one.cell.name: archive.load(directory.path / "observations" / one.cell.name) for one in due}
    victims: dict[tuple[str, str], Victims] = {}
    known: dict[tuple[str, str], tuple[Victim, ThreatModel]] = {}
    asked: dict[tuple[str, str], Questions] = {}
    for one in due:
        victims[one.cell.name, ""] = _base(directory, one, observed[one.cell.name], scenario)
    jobs: list[Job] = []
    for trial, one in left:
        faced, key = facing(scenario, trial.under), (one.cell.name, trial.under)
        if key not in victims:
            victims[key] = choose(one, observed[one.cell.name], faced)
        if key not in known:
            known[key] = public(one, victims[key], faced)
        if not isinstance(trial.attack, MembershipAttack):
            plain = _job(trial, trial.attack, one, victims[key], *known[key])
            jobs.append(provoked(plain, one, setup) if trial.attack.server == "malicious" else plain)
            continue
        if key not in asked:
            seen, whom = observed[one.cell.name], victims[key].observations
            asked[key] = questions(one, seen, whom, *known[key], faced)
        jobs.append(_question(trial, trial.attack, one, asked[key]))
    watched = SideBySide(progress, [job.title for job in jobs])
    for index, answer in executor.map(work, jobs, watched.tick, gone):
        job, (trial, one) = jobs[index], left[index]
        path, key = trial.path(one.cell), (job.cell, job.under)
        found: dict[str, Any] = {}
        if isinstance(job, MembershipJob) and isinstance(answer, MembershipAnswer):
            found = membership.scored(job, answer, asked[key])
        elif isinstance(job, AttackJob) and isinstance(answer, AttackAnswer):
            truths = victims[key].truths
            images = images_of(answer, truths) if scenario.audit.include_samples else {}
            if images:
                directory.write_tensors(f"{path}.safetensors", images)
            found = scored(job, answer, truths)
        used = knows(trial.plugin, trial.attack, one, setup.defenses[one.cell.defense])
        about = {"plugin": trial.plugin, "adaptive": used and job.threat.defense, **one.cell.about}
        directory.write_json(f"{path}.json", found | about)
        threat = {"threat": job.under} if job.under else {}
        directory.event("attacked", cell=job.cell, attack=job.label, error=answer.error, **threat)
        # Of a refusal the first clause: the report has the whole of it.
        why = answer.error or ""
        watched.finish(index, why if answer.failed else clause(why))


def _note_added(
    directory: RunDirectory, setup: Setup, cells: Sequence[Trained], trials: Sequence[Trial]
) -> None:
    """Write down which trials the audit adds to which cell: a report that lacks one is not complete."""
    added = {
        one.cell.name: [
            t.stem for t in trials if t.added and t.meant_for(one, setup.defenses[one.cell.defense])
        ]
        for one in cells
    }
    if any(added.values()):
        directory.update_manifest(paired={name: stems for name, stems in added.items() if stems})


def work(job: Job, report: Callable[[int, int], None]) -> AttackAnswer | MembershipAnswer:
    """Run one job of either kind."""
    return membership.infer(job, report) if isinstance(job, MembershipJob) else attack(job, report)


def gone(job: Job, reason: str) -> AttackAnswer | MembershipAnswer:
    """The answer of a job that took its worker down with it."""
    return membership.lost(reason) if isinstance(job, MembershipJob) else lost(job, reason)


def provoked(job: AttackJob, trained: Trained, setup: Setup) -> AttackJob:
    """The job with what clients answer to its attack's own model, if the threat lets a server send one."""
    if job.threat.server != "malicious":
        return job  # the attack itself says what it lacks
    try:
        found = provoke(job.attack, trained, job.observations, setup, job.victim.proxy)
    except NotApplicable as error:
        return replace(job, answered=AttackAnswer([], [], str(error)))
    except Exception as error:  # the hooks are a plugin's
        told = f"the attack failed: {type(error).__name__}: {error}"
        return replace(job, answered=AttackAnswer([], [], told, failed=True))
    return replace(job, victim=found.victim, observations=found.observations, refused=found.refused)


def _truth(cell: Cell) -> str:
    return f"truth/{cell.name}.json"


def _base(
    directory: RunDirectory, trained: Trained, observed: Sequence[Observation], scenario: Scenario
) -> Victims:
    """Choose a cell's victims among its observations, and write the truth beside them."""
    victims = choose(trained, observed, scenario)
    if scenario.audit.include_samples:
        directory.write_tensors(f"truth/{trained.cell.name}.safetensors", victims.images())
    directory.write_json(_truth(trained.cell), victims.to_dict(record_hashes))
    return victims


def _job(
    trial: Trial, attack: Attack, trained: Trained, victims: Victims, victim: Victim, threat: ThreatModel
) -> AttackJob:
    """One attack on one cell, with what that attacker holds; every threat gets the same random draws."""
    return AttackJob(
        cell=trained.cell.name,
        label=trial.label,
        attack=attack,
        observations=victims.observations,
        threat=threat,
        victim=victim,
        seed=seeds.derive(trained.cell.seed, "attacker", trained.cell.name),
        under=trial.under,
    )


def _question(trial: Trial, attack: MembershipAttack, trained: Trained, asked: Questions) -> MembershipJob:
    return MembershipJob(
        cell=trained.cell.name,
        label=trial.label,
        attack=attack,
        targets=asked.targets,
        threat=asked.threat,
        victim=asked.victim,
        seed=seeds.derive(trained.cell.seed, "attacker", trained.cell.name),
        under=trial.under,
    )
