"""What a trained cell leaves in the run directory, and what attackers and scorer need of it from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedlab.audit import Disclosure, archive
from fedlab.experiment.cells import Cell, Parts, Trained
from fedlab.experiment.checkpoints import clear
from fedlab.experiment.evaluation import TOLD, integrity, weights_sha256
from fedlab.experiment.personal import mean_over_clients
from fedlab.experiment.setup import Setup
from fedlab.experiment.several import Measured, TaskMilestones
from fedlab.privacy.examination import examined
from fedlab.runtime import SimulationGrid

if TYPE_CHECKING:
    from fedlab.experiment.training import Training


def leave(training: Training, measured: Measured) -> Trained:
    """Write it all, the manifest's entry last: from then on the cell is trained."""
    cell, directory, parts = training.cell, training.directory, training.parts
    metrics = _metrics(training, measured)
    archive.add(directory.path / "observations" / cell.name, training.watcher.take())
    directory.write_tensors(f"models/{cell.name}/model.safetensors", training.state)
    training.journal.flush()  # what came after the last round's replies
    guarantee = examined(training.defense.guarantee, training.journal, training.defense.spends)
    if guarantee is not None:
        directory.write_json(f"privacy/{cell.name}.json", guarantee.to_dict())
    entry = {
        "name": cell.name,
        **cell.about,
        "chunk_size": parts.chunking.size,
        "weights_sha256": weights_sha256(training.state),
    }
    done = {one["name"] for one in directory.manifest["cells"]}
    earlier = directory.read_json("metrics.json")["cells"] if done else {}
    kept = {name: earlier[name] for name in earlier if name in done}
    directory.write_json("metrics.json", {"cells": kept | {cell.name: metrics}})
    directory.event("trained", cell=cell.name, accuracy=measured.accuracy)
    directory.update_manifest(cells=[*directory.manifest["cells"], entry])
    clear(training.checkpoints.folder)
    return trained(cell, training.setup, parts, metrics, str(entry["weights_sha256"]))


def _metrics(training: Training, measured: Measured) -> dict[str, Any]:
    """The cell's entry of metrics.json."""
    parts, watcher, clients = training.parts, training.watcher, measured.clients
    milestones, exhausted, grid = training.milestones, training.charges.exhausted, training.grid
    facts = getattr(parts.strategy, "facts", None)
    values = sum(value.numel() for value in training.state.values())
    metrics = {
        "accuracy": measured.accuracy,
        "loss": measured.loss,
        "rounds": milestones.history,
        "reached": milestones.reached,
        "ended": training.ended,
        "budget": None if exhausted is None else exhausted.to_dict(),
        "schedule": facts() if facts else None,
        "traffic": training.traffic.summary(),
        "parameters": parts.model.parameter_count,
        "personal": training.examiner.personal,
        "per_client": clients,
        "per_client_of": "all" if len(training.owners) <= TOLD else "took part",
        "population": len(training.owners),
        "client_accuracy": mean_over_clients(clients, "accuracy"),
        "adversaries": integrity(parts.model, parts.task, training.state, training.adversaries),
        "wire": watcher.wire,
        "uplink_bytes": training.defense.uplink_bytes(values),
        "failures": len(watcher.failures),
        "rejected": watcher.rejected_by_kind,
        "asked": watcher.asked,
        "late": sum(watcher.late.values()),
        "stopped": sum(watcher.stopped.values()),
        "never_contributed": watcher.never_contributed,
        "skipped_rounds": training.skipped,
        "virtual_seconds": grid.now if isinstance(grid, SimulationGrid) else None,
    }
    if isinstance(milestones, TaskMilestones):
        metrics |= {"tasks": milestones.rows(measured)}
    return metrics


def trained(cell: Cell, setup: Setup, parts: Parts, metrics: dict[str, Any], weights: str) -> Trained:
    """What attackers and scorer need of a cell, just trained or long ago."""
    return Trained(
        cell,
        parts.task,
        parts.model,
        parts.config,
        parts.owners,
        metrics,
        weights,
        parts.personal,
        Disclosure(altered=parts.rule.alters).then(setup.defenses[cell.defense].disclosure(parts.model)),
    )
