"""An app that ran and was read, as a cell of a run directory: written down, attacked, scored."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fedlab import plugins
from fedlab.apps.asked import ITERATIONS, Asked, toml_of, training_of
from fedlab.apps.contract import Ran
from fedlab.apps.defended.plan import Seen
from fedlab.apps.defended.trial import Tried
from fedlab.apps.defended.wishes import AS_IT_IS as AS_IT_IS
from fedlab.apps.desk import NOT_FINITE
from fedlab.apps.facts import Facts, View
from fedlab.apps.folder import AppFolder
from fedlab.apps.measured import measured, rows, strict
from fedlab.apps.recorded import bare, observations, owners, task_of, used
from fedlab.apps.same import keep
from fedlab.audit import KnownConfig, Observation, acting
from fedlab.errors import UsageError
from fedlab.experiment.assembly import configured
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.evaluation import weights_sha256
from fedlab.experiment.pairing import paired
from fedlab.experiment.provenance import describe_data, describe_model
from fedlab.experiment.setup import Setup
from fedlab.experiment.trials import attack_cells, trials_of
from fedlab.progress import Progress
from fedlab.runtime import InlineExecutor
from fedlab.scenario import Scenario
from fedlab.tasks import State

NAME, ACTING = "app.json", "acting.json"


@dataclass(frozen=True)
class Written:
    """What stands in the run directory before attacks."""

    scenario: Scenario
    cell: Cell
    metrics: dict[str, Any]


def described(
    directory: RunDirectory,
    app: AppFolder,
    asked: Asked,
    ran: Ran,
    facts: Facts,
    tries: Sequence[Tried] = (),
) -> Written:
    """Write down what the app is, how it was read and how it learned, as it is and under what was tried."""
    known = training_of(ran, facts)
    scenario = scenario_of(asked, ran, facts, tries)
    cell = Cell(AS_IT_IS, facts.mode, asked.seed)
    text, metrics = toml_of(scenario, known), measured(ran)
    others = [under(scenario, one.seen) for one in tries if one.seen is not None]
    directory.write_text("scenario.toml", text)
    each = {cell.name: metrics} | {one.cell.name: one.metrics for one in others}
    directory.write_json("metrics.json", {"cells": each})
    directory.write_json(
        NAME,
        {
            "schema": 1,
            "name": app.name,
            "supernodes": asked.clients,
            "rounds": ran.rounds,
            "observed": list(asked.observe),
            "configuration": strict(ran.configuration),
            "replies": ran.replies,
            "failed": ran.failed,
            "failure": ran.failure,
            "metrics": rows(ran.metrics),
            "output": list(ran.output),
            **facts.to_dict(),
            **({"tried": [one.to_dict(app) for one in tries]} if tries else {}),
        },
    )
    directory.update_manifest(scenario=tomllib.loads(text))
    return Written(scenario, cell, metrics)


def scenario_of(asked: Asked, ran: Ran, facts: Facts, tries: Sequence[Tried] = ()) -> Scenario:
    """The audit as a scenario, with the defenses that the app ran under; nothing is written."""
    # What is known of an app as it is, is its code, which its server has: nobody is unaware of that.
    plain = facts.view is None or not facts.view.disclosure
    return asked.scenario(
        facts.mode,
        training_of(ran, facts),
        attacked=facts.view is not None,
        rounds=ran.rounds,
        cohort=_cohort(ran),
        tries=[one.wish for one in tries if one.seen is not None],
        adaptive=plain,
    )


def under(scenario: Scenario, seen: Seen) -> Written:
    """The cell of the app under one of the scenario's defenses."""
    return Written(scenario, Cell(seen.label, seen.facts.mode, scenario.seeds[0]), measured(seen.ran))


def _cohort(ran: Ran) -> int | None:
    """Clients of one round; None if nobody was seen."""
    return max(Counter(one.round for one in ran.sights).values(), default=None)


def unattacked(directory: RunDirectory, written: Written, ran: Ran, facts: Facts) -> None:
    """Keep the updates by the names of their messages, and say that nobody was chosen."""
    cell = written.cell
    seen = [bare(one, facts.told.get((one.round, one.client), KnownConfig())) for one in ran.sights]
    seen = [one for one in seen if one.update]
    keep(directory, cell, seen)
    if cell.defense == AS_IT_IS:
        _note_signs(directory, seen, ran)
    nobody = {"victims": [], "observed": len(ran.sights), "empty": 0, "eligible": 0}
    directory.write_json(f"truth/{cell.name}.json", nobody)
    _note_cell(directory, cell)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A cell that can be attacked; nothing of it is written yet."""

    trained: Trained
    seen: Sequence[Observation]
    setup: Setup


def prepared(written: Written, ran: Ran, facts: Facts, view: View) -> Prepared:
    """From what an app did to what attacks are run on."""
    scenario, cell = written.scenario, written.cell
    records = used(ran, view, scenario.name)
    task = task_of(view, records.data)
    model = task.model(0)  # its weights are those that were sent, whatever the seed
    seen = observations(ran, facts.told, view, model)
    sent = {name for one in seen for name in one.update}
    (spec,) = [one for one in scenario.defenses if one.label == cell.defense]
    told = plugins.build("defenses", spec).disclosure(model)
    trained = Trained(
        cell,
        task,
        model,
        configured(written.scenario, written.cell.mode),
        owners(records.steps, [one.client for one in seen]),
        written.metrics,
        weights_sha256(_trained(seen)),
        frozenset(model.parameter_names) - sent,
        view.disclosure.then(told),
        records.steps,
    )
    return Prepared(trained, seen, _setup(scenario, trained))


def _trained(seen: Sequence[Observation]) -> State:
    """The weights that each client came to."""
    return {
        f"{one.round}/{one.client}/{name}": one.before[name] + value
        for one in seen
        for name, value in one.update.items()
    }


def attacked(
    directory: RunDirectory,
    written: Written,
    ran: Ran,
    facts: Facts,
    view: View,
    progress: Progress,
    others: Sequence[Trained] = (),
) -> Trained:
    """Attack and score the updates of one cell; `others` are those that were attacked before."""
    found, cell = prepared(written, ran, facts, view), written.cell
    trained, weights = found.trained, found.trained.weights_sha256
    keep(directory, cell, found.seen)
    if cell.defense == AS_IT_IS:
        _note_signs(directory, found.seen, ran)
        directory.update_manifest(
            dataset=describe_data(trained.task) | {"test": None},
            model=describe_model(type(view.network.network).__name__, {}, trained.model),
        )
    _note_cell(directory, cell, weights)
    cells, setup = [*others, trained], found.setup
    attack_cells(directory, setup, cells, trials_of(setup), InlineExecutor(), progress)
    return trained


def _note_cell(directory: RunDirectory, cell: Cell, weights: str = "") -> None:
    """Let the manifest name a cell, behind those that it names already."""
    entry = {"name": cell.name, **cell.about, **({"weights_sha256": weights} if weights else {})}
    cells = [one for one in directory.manifest.get("cells", []) if one["name"] != cell.name]
    hashes = directory.manifest.get("weights_sha256", {})
    directory.update_manifest(
        cells=[*cells, entry], weights_sha256={**hashes, cell.trained: weights} if weights else hashes
    )


def _note_signs(directory: RunDirectory, seen: Sequence[Observation], ran: Ran) -> None:
    """Write down which mechanisms act on the updates, whatever the app's text claims."""
    refused = ran.failure if ran.failure.startswith(NOT_FINITE) else ""
    stepped = {one.optimizer.name if one.optimizer else "" for one in ran.recordings.values()}
    if seen:
        signs = acting.as_json(acting.alike(seen), plain=stepped == {"SGD"}, refused=refused)
        directory.write_json(ACTING, signs)


def _setup(scenario: Scenario, trained: Trained) -> Setup:
    """What attacks ask of a set-up; nothing in it trains."""
    defenses = {spec.label: plugins.build("defenses", spec) for spec in scenario.defenses}
    added = paired(scenario, defenses)
    return Setup(
        scenario=scenario,
        task=trained.task,
        owners={trained.cell.seed: trained.owners},
        defenses=defenses,
        attacks={spec.label: plugins.build("attacks", spec) for spec in scenario.attacks},
        aggregators={},
        model=trained.model,
        objects={},
        again=_never,
        adaptive={label: plugins.build("attacks", _brief(name)) for label, name in added.items()},
    )


def _brief(name: str) -> dict[str, Any]:
    """An attack that knows a defense, with as much time as those that run unless others are asked for."""
    own = {one.name: one.default for one in plugins.parameters("attacks", name)}
    longer = isinstance(own.get("iterations"), int) and own["iterations"] > ITERATIONS
    return {"name": name, **({"iterations": ITERATIONS} if longer else {})}


def _never(scenario: Scenario) -> NoReturn:
    raise UsageError(f"{scenario.name} is a Flower app, which trains by itself; audit it again instead")
