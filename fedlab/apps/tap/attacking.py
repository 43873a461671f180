"""Attacks on a recording: answers, how well each explains its update, and what is proved. No score.

The attacks are those of any audit, with their null control: the same attack on a random update of equal size.
Nobody knows the records, so that nothing here is compared with them.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedlab import plugins, seeds
from fedlab.apps import folder as folders
from fedlab.apps.asked import ATTACKS, VICTIMS, toml_of
from fedlab.apps.facts import Facts, View
from fedlab.apps.given import given
from fedlab.apps.loading import forget, load
from fedlab.apps.tap import CELL
from fedlab.apps.tap.claiming import claims, images_of
from fedlab.apps.tap.facts import infer
from fedlab.apps.tap.recording import Recording, scenario_of
from fedlab.apps.tap.translated import translated
from fedlab.audit import Attack, Observation, ThreatModel, Victim
from fedlab.errors import MissingFacts, UsageError
from fedlab.experiment.asked import attack_entry
from fedlab.experiment.attacking import AttackJob, attack, lost
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.provenance import describe_model
from fedlab.foreign import clean
from fedlab.progress import Progress, Quiet, SideBySide
from fedlab.report import AuditReport, build
from fedlab.report.deployment import FACTS
from fedlab.runtime import InlineExecutor
from fedlab.scenario import Scenario
from fedlab.scenario import load as load_scenario
from fedlab.scenario.loading import tables
from fedlab.tasks import FunctionalModel
from fedlab.tasks.task import cross_entropy


def attack_recording(
    path: Path | str,
    app: Path | str,
    *,
    attacks: Sequence[str] = (),
    include_samples: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> AuditReport:
    """Attack what `tap` recorded, with what the app's code and its author say.

    Args:
        path: the run directory of the recording.
        app: the folder of the app that was deployed; its code runs.
        attacks: `"NAME"` or `"NAME:key=value,..."`; `asked.ATTACKS` unless given.
        include_samples: keep reconstructions as images, and show them.

    Raises:
        UsageError: no recording, an empty one, or an attack that cannot work.
        MissingFacts: the author has to say something; the recording stays as it is.
    """
    listener, directory = progress or Quiet(), RunDirectory.open(Path(path))
    with directory.locked():
        recording = Recording.load(directory.path)
        if not recording.seen:
            raise UsageError(
                f"{directory.path}: nothing was recorded in rounds {recording.about.get('observe')}: no"
                " client sent back the arrays that it was sent. Record other rounds: fedlab tap --observe"
            )
        folder = folders.read(app)
        entries = _entries(scenario_of(recording.about), attacks or ATTACKS)
        adapter = given(folder)
        listener.message(f"importing {folder.name}")
        apps = load(folder, seed=seed)
        try:
            facts = infer(recording, apps, folder, adapter, seed)
        except MissingFacts as error:
            raise MissingFacts(
                f"{error}\n\nThe recording is kept: fedlab attack {directory.path} --app {app}"
            ) from None
        finally:
            forget(apps, folder)
        _write_facts(directory, facts)
        for text in facts.obstacles:
            listener.message(f"not attacked: {text}")
        if facts.view is not None:
            _attack(directory, recording, facts, facts.view, entries, seed, include_samples, listener)
        return build(directory.path)


def _entries(scenario: Scenario, wishes: Sequence[str]) -> list[dict[str, Any]]:
    """Entries of `[[attacks]]`, checked.

    Raises:
        UsageError: no such attack or parameter, or one that asks about records that nobody has.
    """
    found: list[dict[str, Any]] = []
    for wish in wishes:
        entry = attack_entry(wish, scenario)
        scenario = load_scenario(tables(scenario) | {"attacks": [*found, entry]})
        if not isinstance(plugins.build("attacks", scenario.attacks[-1]), Attack):
            raise UsageError(
                f"--attack {wish}: it asks whether records were used, and of a deployment nobody knows any;"
                " expected an attack that reconstructs, such as cascade"
            )
        found.append(entry)
    return found


def _write_facts(directory: RunDirectory, facts: Facts) -> None:
    """What is known, beside the recording; answers that were found under other facts are removed."""
    found = clean(facts.to_dict())
    if directory.has(FACTS) and directory.read_json(FACTS) != found:
        shutil.rmtree(directory.path / "attacks", ignore_errors=True)
        directory.update_manifest(again=None)
    directory.write_json(FACTS, found)


def _attack(
    directory: RunDirectory,
    recording: Recording,
    facts: Facts,
    view: View,
    entries: Sequence[dict[str, Any]],
    seed: int,
    include_samples: bool,
    progress: Progress,
) -> None:
    model = FunctionalModel(view.network, view.shape)
    chosen = _chosen(recording.seen, seed)
    seen = [translated(one, facts.told[one.round, one.client], view, model) for one in chosen]
    shared = {name for one in seen for name in one.update}
    personal = frozenset(model.parameter_names) - shared
    victim = Victim(model, cross_entropy, view.shape, view.classes, personal)
    before = directory.manifest.get("again") or {}
    merged = {one["label"]: one for one in [*before.get("attacks", []), *entries]}
    name = type(view.network.network).__name__
    told = facts.told[chosen[0].round, chosen[0].client]
    known = {
        key: value
        for key in ("batch_size", "local_steps", "local_epochs", "learning_rate")
        if (value := getattr(told, key)) is not None
    }
    text = toml_of(scenario_of(recording.about, facts.mode, known), known)
    directory.write_text("scenario.toml", text)
    directory.update_manifest(
        scenario=tomllib.loads(text),
        again={"attacks": list(merged.values()), "threats": []},
        model=describe_model(name, {}, model),
    )
    jobs = [
        AttackJob(
            cell=CELL,
            label=entry["label"],
            attack=plugins.build("attacks", {k: v for k, v in entry.items() if k != "label"}),
            observations=seen,
            threat=ThreatModel(client_mode=facts.mode),
            victim=victim,
            seed=seeds.derive(seed, "attacker", CELL),
        )
        for entry in entries
    ]
    watched = SideBySide(progress, [job.title for job in jobs])
    for index, answer in InlineExecutor().map(attack, jobs, watched.tick, lost):
        job, entry = jobs[index], entries[index]
        stem = f"attacks/{CELL}/{job.label}"
        (directory.path / f"{stem}.safetensors").unlink(missing_ok=True)
        images = images_of(answer, seen) if include_samples else {}
        if images:
            directory.write_tensors(f"{stem}.safetensors", images)
        directory.write_json(f"{stem}.json", claims(job, answer, entry["name"]))
        directory.event("attacked", cell=CELL, attack=job.label, error=answer.error)
        watched.finish(index, answer.error or "")


def _chosen(seen: Sequence[Observation], seed: int) -> list[Observation]:
    """Whom to attack: all, or as many as are attacked at most."""
    order = torch.randperm(len(seen), generator=seeds.torch_generator(seed, "victims")).tolist()
    return [seen[index] for index in sorted(order[:VICTIMS])]
