"""What is checked of what a cell with noise claims: privacy/CELL.checks.json.

- `checks`: the mechanism check (`fedlab.privacy.mechanism`) of the cell's own rule, aggregator, plan of
  batches and sampler, against σ and q of its ledger.
- `one_run`: a lower bound on ε, where `[privacy.canaries]` asks for one.
- `rero`: for each prior chance κ, the chance γ that a record is reconstructed, for what the most exposed
  client spent; empty where that is not proved, and `why_no_rero` says why.
- `alarm`: what contradicts the claim, in words; null if nothing does.

All of it is drawn from branches of the cell's seed. A cell whose file is there is left as it is. Workers
train on canaries, which takes the most time, while the checks run here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.experiment.canaries import Audit, Round, audited
from fedlab.experiment.cells import Parts, Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.probing import Step, noisy, of_aggregator, of_plan, of_sampler
from fedlab.experiment.setup import Setup
from fedlab.privacy import Event
from fedlab.privacy.ledger import Journal
from fedlab.privacy.mechanism import Check, Release, Sampling, check
from fedlab.privacy.one_run import OneRun
from fedlab.privacy.reconstruction import rero_bounds, rero_epsilon
from fedlab.progress import Progress, SideBySide
from fedlab.runtime import Executor

LEVEL = 0.001
"""The chance that the mechanism check of a right cell fails, which withdraws its ε; a run has many cells."""

NUMBERS = 50_000
"""Noisy numbers that are looked at: enough to see a standard deviation that is off by 2 %."""

DRAWN, SAMPLES = 3 * 10**7, (4_000, 100_000)
"""Steps that are drawn for reconstruction robustness in all, and of the whole schedule at least, at most."""


def prove(
    directory: RunDirectory,
    setup: Setup,
    cells: Sequence[Trained],
    executor: Executor,
    progress: Progress,
) -> None:
    """Check the cells that have something to prove and no file yet."""
    audits: list[tuple[_Proof, Audit]] = []
    for one in cells:
        if directory.has(f"privacy/{one.cell.name}.json") and not directory.has(_path(one)):
            proof = _Proof(directory, setup, one)
            if isinstance(proof.audit, Audit):
                audits.append((proof, proof.audit))
            else:
                _write(directory, proof, None, proof.audit, progress)
    watched = SideBySide(progress, [f"audit {proof.cell.name} with canaries" for proof, _ in audits])
    jobs = [audit for _, audit in audits]
    for index, answer in executor.map(_on_canaries, jobs, watched.tick, _gone):
        told = answer if isinstance(answer, str) else f"epsilon is at least {answer.epsilon_hat:.3g}"
        watched.finish(index, told)
        one_run, why_not = (None, answer) if isinstance(answer, str) else (answer, "")
        _write(directory, audits[index][0], one_run, why_not, progress)


def _on_canaries(audit: Audit, report: Callable[[int, int], None]) -> OneRun | str:
    """In a worker: the bound, or why there is none."""
    try:
        return audited(audit, report)
    except UsageError as error:
        return str(error)


def _gone(audit: Audit, reason: str) -> OneRun | str:
    return f"the worker that trained on canaries was lost: {reason}"


def _write(
    directory: RunDirectory, proof: _Proof, one_run: OneRun | None, why_not: str, progress: Progress
) -> None:
    found = proof.found(one_run, why_not)
    directory.write_json(_path(proof.trained), found)
    count = sum(one["verdict"] != "not tested" for one in found["checks"])
    clear = (
        f"{count} {'check' if count == 1 else 'checks'}, no contradiction" if count else "nothing to check"
    )
    progress.message(f"check {proof.cell.name}: {found['alarm'] or clear}")


def _path(one: Trained) -> str:
    return f"privacy/{one.cell.name}.checks.json"


class _Proof:
    """What is known of one cell."""

    def __init__(self, directory: RunDirectory, setup: Setup, trained: Trained) -> None:
        self.setup, self.trained, self.cell = setup, trained, trained.cell
        self.scenario, self.settings = setup.under(self.cell), setup.scenario.privacy
        self.defense = setup.defenses[self.cell.defense]
        self.guarantee = directory.read_json(f"privacy/{self.cell.name}.json")
        self.client: int | None = self.guarantee.get("most_exposed")
        journal = Journal(directory.path / "privacy" / f"{self.cell.name}.journal.jsonl")
        self.events = [event for event in journal.events if event.noise_multiplier > 0.0]
        self.seed = seeds.derive(self.cell.seed, "proving")
        self.parts = setup.parts(self.cell)
        self.audit = self._audit()

    def found(self, one_run: OneRun | None, why_not: str) -> dict[str, Any]:
        """The file."""
        checks = [] if self.parts.tasks or not self.settings.check else self._checks(self.parts)
        alarm = _alarm(checks, one_run)
        why_no_rero = self._unproved(alarm)
        return {
            "client": self.client,
            "checks": [one.to_dict() for one in checks],
            "one_run": None if one_run is None else _plain(one_run),
            "why_no_one_run": why_not,
            "rero": [] if why_no_rero else self._rero(),
            "why_no_rero": why_no_rero,
            "alarm": alarm,
        }

    def _mine(self, place: str) -> list[Event]:
        """What the most exposed client spent there; of nobody in particular if that is not known."""
        events = [event for event in self.events if event.place == place]
        return [event for event in events if event.client == self.client] or events

    def _checks(self, parts: Parts) -> list[Check]:
        releases: list[Release] = []
        samplings: list[Sampling] = []
        reaches: list[Release] = []
        if events := self._mine("client"):
            layer, first = noisy(parts.rule), events[0]
            if layer is None:
                return [_untried(self.cell.defense)]
            records = len(parts.owners[first.client])
            step = Step(
                *layer,
                parts.model,
                parts.config,
                records,
                first.noise_multiplier,
                first.sample_rate,
                self.seed,
            )
            releases.append(step.of_gradients())
            if layer[1].unit == "record":
                reaches.append(step.of_records(parts.task))
                rate, seed = first.sample_rate, self.cell.seed
                samplings.append(of_plan(records, parts.config, rate, seed, first.client))
        if events := self._mine("server"):
            first, size = events[0], parts.model.parameter_count
            release = of_aggregator(
                self.defense,
                self.setup.aggregators[self.cell.strategy],
                parts.federation,
                size,
                first.noise_multiplier,
                self.seed,
            )
            if release is None:
                return [_untried(self.cell.defense)]
            releases.append(release)
            if first.sample_rate < 1.0:
                clients = len(parts.owners)
                samplings.append(of_sampler(self.scenario.strategy, clients, first.sample_rate, self.seed))
        if not releases:
            return []
        generator = seeds.numpy_generator(self.seed, "checks")
        return check(releases, samplings, reaches, generator=generator, level=LEVEL, numbers=NUMBERS)

    def _audit(self) -> Audit | str:
        """What canaries are to show, or why they show nothing: empty where nobody asked."""
        settings, events, parts = self.settings.canaries, self._mine("client"), self.parts
        if settings is None or parts.tasks:
            return ""
        layer = noisy(parts.rule)
        if not events or layer is None or layer[1].unit != "record":
            return "canaries are records, and no noise of this cell is accounted record by record"
        rounds = [
            Round(number, event.noise_multiplier, event.sample_rate, event.steps)
            for number, event in enumerate(events, 1)
            if event.client == events[0].client
        ]
        return Audit(
            parts.rule,
            parts.model,
            parts.config,
            rounds,
            canaries=settings.count,
            guesses=settings.guesses or max(1, settings.count // 10),
            delta=self.guarantee["delta"],
            confidence=settings.confidence,
            seed=self.seed,
        )

    def _unproved(self, alarm: str | None) -> str:
        """Why no γ is told, which is proved by the same as ε; empty if it is."""
        if alarm is not None:
            return "a check raised an alarm, so that nothing is proved of what ran"
        failed = [one["text"] for one in self.guarantee["assumptions"] if not one["holds"]]
        if failed:
            return f"an assumption of the proof fails ({'; '.join(failed)})"
        return ""

    def _rero(self) -> list[dict[str, float]]:
        """γ by κ; by ε alone where the mechanism is no composition of Gaussian steps."""
        kappas = self.settings.prior
        history = {(sigma, rate): steps for sigma, rate, steps in self.guarantee.get("history") or []}
        if history:
            samples = int(np.clip(DRAWN // max(1, sum(history.values())), *SAMPLES))
            generator = seeds.numpy_generator(self.seed, "reconstruction")
            found = rero_bounds(history, kappas, samples=samples, generator=generator)
            return [
                {"kappa": kappa, "gamma": one.gamma, "upper": one.upper}
                for kappa, one in zip(kappas, found, strict=True)
            ]
        epsilon, delta = self.guarantee["epsilon"], self.guarantee["delta"]
        if epsilon is None:
            return []
        bounds = [(kappa, rero_epsilon(kappa, epsilon, delta)) for kappa in kappas]
        return [{"kappa": kappa, "gamma": bound, "upper": bound} for kappa, bound in bounds]


def _untried(defense: str) -> Check:
    words = f"the noise of {defense} says nothing of what it clips to (`claim`), so that nothing was tried"
    return Check("mechanism", None, None, "not tested", words)


def _plain(one: OneRun) -> dict[str, Any]:
    return {"m": one.canaries} | one.to_dict()


def _alarm(checks: Sequence[Check], one_run: OneRun | None) -> str | None:
    failed = [f"{one.name}: {one.words}" for one in checks if one.verdict == "failed"]
    found = [f"the mechanism does not do what is accounted for ({'; '.join(failed)})"] if failed else []
    if one_run is not None and one_run.alarm:
        found.append(
            f"epsilon is at least {one_run.epsilon_hat:.3g} with {100 * one_run.confidence:g} % confidence,"
            f" by {one_run.right} right of {one_run.guesses} guesses about {one_run.canaries} canaries, but"
            f" {one_run.epsilon:.3g} is claimed of that training"
        )
    return "; ".join(found) or None
