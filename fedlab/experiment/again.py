"""`fedlab.attack`: attack a finished run's observations again, without training.

The answers are added to the run directory, one file each, and the report is built anew. What was asked for
stands in the manifest, so that the same call finds it done; what a stopped call left undone, the same call
finishes. The scenario of the run is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlab import plugins
from fedlab.audit import archive
from fedlab.errors import DataError, Interrupted, UsageError
from fedlab.experiment import resuming
from fedlab.experiment.asked import EACH, Wish, attack_entry, blamed, moot, threat_entries
from fedlab.experiment.attacking import choose
from fedlab.experiment.cells import Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop
from fedlab.experiment.leaving import trained
from fedlab.experiment.pairing import paired
from fedlab.experiment.provenance import record_hashes
from fedlab.experiment.setup import Setup, set_up
from fedlab.experiment.stages import executor_of
from fedlab.experiment.trials import Trial, attack_cells, missing, trials_of
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build
from fedlab.runtime import single_thread
from fedlab.scenario import Scenario, load
from fedlab.scenario.loading import tables
from fedlab.tasks import Task

DEFAULT = "cascade"
NEEDED = ("task", "local_rule")
"""What an attacker must know of what came from Python: the network hangs on it."""


def attack(
    path: Path | str,
    *,
    attacks: Sequence[Wish] = (),
    threats: Sequence[Wish] = (),
    overrides: Sequence[str] = (),
    task: Task | None = None,
    local_rule: object | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Attack what a finished run observed, under `[threat]` and under other threats beside it.

    Args:
        path: the run directory.
        attacks: `"NAME"`, `"NAME:key=value,..."` or tables; `"cascade"` unless given.
        threats: levels (`"oracle"`), labels of the run's `[[threats]]`, keys of `[threat]`
            (`"labels=true,batch_size=false"`), `"each"` (every piece of knowledge given or taken away in
            turn), or tables; the run's own `[[threats]]` unless given.
        overrides: `"a.b=v"` for what does not change the result, such as `"runtime.executor=inline"`.
        task, local_rule: as given to `run`, if they were.

    Raises:
        UsageError: the run is not finished, another process works on it, or an attack or a threat is unknown.
        DataError: its observations or its truth are gone, or are of other data.
        Interrupted: the user stopped it; the same call goes on.
    """
    listener = progress or Quiet()
    with RunDirectory.open(Path(path)).locked():
        directory = RunDirectory.open(Path(path))
        resuming.no_app(directory, "attack")
        check_finished(directory)
        directory.repair()
        _check_objects(directory, {"task": task, "local_rule": local_rule})
        began = resuming.same_scenario(directory, overrides)
        settings, chosen, under = wished(directory, began, attacks or (DEFAULT,), threats)
        setup = set_up(settings, task, local_rule=local_rule)
        resuming.same_data(directory, setup)
        cells = _cells(directory, setup)
        asked_for = [one for one in trials_of(setup) if not one.added]
        trials = [one for one in asked_for if one.label in chosen and one.under in under]
        if EACH in threats:
            trials = telling(trials, setup, cells, listener)
        open_ = {one.cell.name for _, one in missing(directory, setup, cells, trials)}
        if open_:
            for one in [one for one in cells if one.cell.name in open_]:
                check_truth(directory, one, settings)
            directory.update_manifest(again=additions(began, settings, trials))
            _run(directory, setup, cells, trials, listener)
            directory.event("attacked again", attacks=chosen, threats=list(filter(None, under)))
        else:
            listener.message(f"{directory.path}: all of that was done before; nothing new")
        return build(directory.path)


def check_finished(directory: RunDirectory) -> None:
    """Whether a run has ended well.

    Raises:
        UsageError: it has not.
    """
    status = directory.manifest.get("status")
    if status != "finished":
        raise UsageError(
            f"{directory.path} is marked {status}; only a finished run can be attacked again: go on with it"
            f" first, fedlab resume {directory.path}"
        )


def _check_objects(directory: RunDirectory, given: dict[str, object | None]) -> None:
    began = directory.manifest.get("objects", {})
    for name in NEEDED:
        if name in began and given[name] is None:
            raise UsageError(
                f"{directory.path}: the {name} of this run ({began[name]}) came from Python and stands in no"
                f" file; attack it from Python: fedlab.attack({str(directory.path)!r}, {name}=...)"
            )
        if name not in began and given[name] is not None:
            raise UsageError(f"{directory.path}: this run has no {name} from Python; leave {name}= out")


def wished(
    directory: RunDirectory, began: Scenario, attacks: Sequence[Wish], threats: Sequence[Wish]
) -> tuple[Scenario, list[str], list[str]]:
    """The scenario with what was and what is asked for beside its own; the labels of what is asked for.

    Raises:
        UsageError: an attack or a threat is mistaken.
    """
    before = directory.manifest.get("again") or {}
    scenario = _with(began, before.get("attacks", []), before.get("threats", []))
    chosen, under = [], [""]
    added = paired(began, {spec.label: plugins.build("defenses", spec) for spec in began.defenses})
    for wish in attacks:
        entry = attack_entry(wish, scenario, added)
        chosen.append(str(entry["label"]))
        if entry["label"] not in [one.label for one in scenario.attacks]:
            with blamed("attack", wish):
                scenario = _with(scenario, [entry], [])
    for wish in threats or [one.label for one in began.threats]:
        for entry in threat_entries(wish, scenario):
            under.append(str(entry["label"]))
            if entry["label"] not in scenario.assumed:
                with blamed("threat", wish):
                    scenario = _with(scenario, [], [entry])
    return scenario, list(dict.fromkeys(chosen)), list(dict.fromkeys(under))


def _with(scenario: Scenario, attacks: list[Any], threats: list[Any]) -> Scenario:
    """The same with more entries, all of it checked.

    Raises:
        ScenarioError: an entry is mistaken.
    """
    if not attacks and not threats:
        return scenario
    data = tables(scenario)
    more = {"attacks": attacks, "threats": threats}
    return load(data | {key: [*data.get(key, []), *found] for key, found in more.items()})


def additions(began: Scenario, settings: Scenario, trials: Sequence[Trial]) -> dict[str, Any]:
    """What the manifest keeps: all entries that the run's own scenario lacks."""
    own, whole = tables(began), tables(settings)
    used = {one.under for one in trials} | {one.label for one in began.threats}
    return {
        key: [one for one in whole.get(key, []) if one not in own.get(key, []) and _kept(key, one, used)]
        for key in ("attacks", "threats")
    }


def _kept(key: str, entry: dict[str, Any], used: set[str]) -> bool:
    return key == "attacks" or entry["label"] in used


def _cells(directory: RunDirectory, setup: Setup) -> list[Trained]:
    metrics = directory.read_json("metrics.json").get("cells", {})
    weights = {one["name"]: str(one["weights_sha256"]) for one in directory.manifest["cells"]}
    return [
        trained(cell, setup, setup.parts(cell), metrics.get(cell.name, {}), weights[cell.name])
        for cell in setup.cells
    ]


def telling(trials: list[Trial], setup: Setup, cells: Sequence[Trained], listener: Progress) -> list[Trial]:
    """Without the threats that differ in nothing that any of these networks has."""
    assumed = setup.scenario.assumed
    dropout = any(one.config.mode == "train" and one.model.mask_shapes for one in cells)
    batch_norm = any(one.model.has_batch_norm for one in cells)
    defended = any(one.disclosure for one in cells)
    void = [
        label
        for label, threat in assumed.items()
        if label and moot(threat, assumed[""], dropout=dropout, batch_norm=batch_norm, defended=defended)
    ]
    if void:
        listener.message(f"left out, for the network has nothing of the kind: {', '.join(void)}")
    return [one for one in trials if one.under not in void]


def check_truth(directory: RunDirectory, one: Trained, settings: Scenario) -> None:
    """Whether the records behind the observations are known.

    Raises:
        DataError: the observations are gone; or nobody knows the truth, or it is another one than the run's.
    """
    name = one.cell.name
    if not directory.has(f"observations/{name}/index.json"):
        raise DataError(
            f"{directory.path}: the observations of {name} were deleted, and attacks live on them; restore"
            " them from a copy, or run again"
        )
    if not directory.has(f"truth/{name}.json"):
        raise DataError(
            f"{directory.path}: nobody knows which records are behind the observations of {name}"
            f" (truth/{name}.json is missing), so that no answer could be scored; deployed clients keep their"
            " records to themselves. Attack a simulated run"
        )
    seen = archive.load(directory.path / "observations" / name)
    if choose(one, seen, settings).to_dict(record_hashes) != directory.read_json(f"truth/{name}.json"):
        raise DataError(
            f"{directory.path}: the records behind the observations of {name} are not those that the run"
            f" wrote down (truth/{name}.json): the version or the data changed, or its clients had records of"
            " their own; run again"
        )


def _run(
    directory: RunDirectory,
    setup: Setup,
    cells: Sequence[Trained],
    trials: Sequence[Trial],
    listener: Progress,
) -> None:
    """The attacks that are left; a run that is finished stays so, whatever happens."""
    stop = Stop()
    try:
        with single_thread(), stop.installed():
            with executor_of(setup.scenario, listener) as executor, stop.installed():
                attack_cells(directory, setup, cells, trials, executor, listener)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped by the user; the answers so far are kept. To go on, give the same command again"
        ) from None
