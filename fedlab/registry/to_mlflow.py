"""A run as MLflow keeps it: an entry in a local database, the report beside it.

The database is SQLite, MLflow's own default since 3.7. Its usage statistics are off, as Flower's are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlab import files
from fedlab.errors import BackendError
from fedlab.registry.entry import Status
from fedlab.registry.exporting import Handed, moment, needed

NAME = re.compile(r"[^A-Za-z0-9_\-./ ]")
"""What may not stand in the name of a metric or a parameter."""
LONGEST_NAME, LONGEST_VALUE = 250, 500
BATCH = 100
"""Entries in one call; MLflow takes that many parameters, and more metrics."""
ENDS = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.RUNNING: "RUNNING"}
"""How MLflow calls it; everything else was killed."""


def write(run: Handed, out: Path) -> list[str]:
    """Add the run to the database in `out`, to the experiment called like its scenario.

    Exporting it again adds it again: MLflow tells its runs apart by numbers of its own.

    Raises:
        BackendError: MLflow is not installed, or it or the disk refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else it tells of the tables of its database
    needed("mlflow", "mlflow")
    client_of = needed("mlflow.tracking", "mlflow")
    entities = needed("mlflow.entities", "mlflow")
    database = f"sqlite:///{out / 'mlflow.db'}"
    with files.refusal(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        client = client_of.MlflowClient(tracking_uri=database)
        _add(client, entities, run, out)
    except Exception as error:  # of MLflow, of its database, of the disk
        raise BackendError(f"MLflow refuses: {type(error).__name__}: {error}") from error
    return [str(out / "mlflow.db"), f"look at it with: mlflow ui --backend-store-uri {database}"]


def _add(client: Any, entities: Any, run: Handed, out: Path) -> None:
    entry = run.entry
    name = entry.scenario or entry.path.resolve().name
    found = client.get_experiment_by_name(name)
    experiment = (
        found.experiment_id
        if found is not None
        else client.create_experiment(name, artifact_location=(out / "artifacts").as_uri())
    )
    start = _milliseconds(run.started)
    tags = {"fedlab.directory": str(entry.path.resolve()), "fedlab.status": str(entry.status)}
    tags |= {f"fedlab.tag.{tag}": "true" for tag in entry.marks.tags}
    tags |= {f"fedlab.{name}": text for name, text in run.texts.items()}
    made = client.create_run(experiment, start_time=start, tags=tags, run_name=entry.path.resolve().name)
    identity = made.info.run_id
    params = [entities.Param(_named(key), value[:LONGEST_VALUE]) for key, value in run.settings.items()]
    metrics = [
        entities.Metric(_named(name), point.value, start + _milliseconds(point.seconds), point.round)
        for name, points in run.curves.items()
        for point in points
    ]
    metrics += [entities.Metric(_named(name), value, start, 0) for name, value in run.figures.items()]
    for few in _batches(params):
        client.log_batch(identity, params=few)
    for few in _batches(metrics):
        client.log_batch(identity, metrics=few)
    for path in run.documents:
        client.log_artifact(identity, str(path))
    status = ENDS.get(entry.status, "KILLED")
    if status != "RUNNING":
        end = _milliseconds(moment(entry.finished)) or start
        client.set_terminated(identity, status=status, end_time=end)


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[place : place + BATCH] for place in range(0, len(items), BATCH)]


def _named(name: str) -> str:
    return NAME.sub("_", name)[:LONGEST_NAME]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
