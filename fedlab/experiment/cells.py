"""One trained cell: a defense, a client mode and a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlab import plugins, seeds
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.app import CohortApp, with_mods
from fedlab.clients.config import Mode
from fedlab.errors import FedlabError, UsageError
from fedlab.experiment.watch import Failed, Watcher
from fedlab.progress import Progress
from fedlab.runtime import Executor, SimulationGrid, TappedGrid, quiet_logger
from fedlab.runtime.arrays import tensors
from fedlab.scenario import Scenario
from fedlab.strategies import SGD, Aggregator
from fedlab.tasks import FunctionalModel, State, Task

EVALUATION_BATCH = 1000
LARGEST_CHUNK = 16


@dataclass(frozen=True)
class Cell:
    """What one training run is, by name."""

    defense: str
    mode: Mode
    seed: int

    @property
    def name(self) -> str:
        return f"{self.defense}-{self.mode}-s{self.seed}"


@dataclass(frozen=True)
class Trained:
    """What one training run left behind, on the server's side and on the clients'."""

    cell: Cell
    task: Task
    model: FunctionalModel
    state: State
    config: ClientConfig
    owners: Sequence[NDArray[np.int64]]
    watcher: Watcher
    metrics: dict[str, Any]
    weights_sha256: str


def chunk_size(scenario: Scenario) -> int:
    """Clients per stacked chunk: a function of the scenario alone, so that workers change no bit."""
    if scenario.runtime.chunk is not None:
        return scenario.runtime.chunk
    return max(2, min(LARGEST_CHUNK, -(-scenario.strategy.cohort // 2)))


@dataclass(frozen=True)
class Parts:
    """What a cell is made of, before it is trained; the same on any Grid."""

    task: Task
    model: FunctionalModel
    config: ClientConfig
    app: ClientApp
    strategy: Strategy


def assemble(
    cell: Cell,
    scenario: Scenario,
    task: Task,
    owners: Sequence[NDArray[np.int64]],
    defense: Defense,
    aggregator: Aggregator,
) -> Parts:
    """The cell's clients and its strategy, with the defense in its places."""
    settings, clients = scenario.strategy, scenario.clients
    config = defense.config(
        ClientConfig(
            mode=cell.mode,
            batch_size=clients.batch_size,
            local_steps=clients.local_steps,
            local_epochs=clients.local_epochs,
            learning_rate=clients.learning_rate,
            momentum=clients.momentum,
            weight_decay=clients.weight_decay,
        )
    )
    task = replace(task, network=defense.network(task.network))
    federation = Federation(tuple(len(ids) for ids in owners), settings.rounds, config)
    rule = defense.local_rule(LocalRule(), federation)
    model = task.model(seeds.derive(cell.seed, "init"))
    optimizer = settings.server_optimizer
    strategy = defense.strategy(
        plugins.load("strategies", settings.name)(
            aggregator=aggregator,
            optimizer=SGD(optimizer.learning_rate, optimizer.momentum),
            cohort=settings.cohort,
            seed=cell.seed,
            parameters=model.parameter_names,
        )
    )
    app = with_mods(CohortApp(task, owners, rule, config, cell.seed), defense.mods())
    return Parts(task, model, config, app, strategy)


def train(
    cell: Cell,
    scenario: Scenario,
    task: Task,
    owners: Sequence[NDArray[np.int64]],
    defense: Defense,
    aggregator: Aggregator,
    executor: Executor,
    progress: Progress,
    failed: Failed,
) -> Trained:
    """Train one cell to the end; `failed` hears of each client that fails, at once.

    Raises:
        FedlabError: every client of a round failed.
    """
    quiet_logger()
    settings = scenario.strategy
    parts = assemble(cell, scenario, task, owners, defense, aggregator)
    task, model, config, strategy = parts.task, parts.model, parts.config, parts.strategy
    grid = SimulationGrid(parts.app, len(owners), executor, seed=cell.seed, chunk=chunk_size(scenario))
    watcher = Watcher(model, config, scenario.audit.rounds, failed)
    job = f"train {cell.name}"
    history: list[dict[str, Any]] = []
    progress.start(job, settings.rounds)

    def after_round(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round == 0:
            return None
        reasons = [reason for number, _, reason in watcher.failures if number == round]
        if len(reasons) == settings.cohort:
            said = reasons[0].strip().splitlines()[-1]
            raise FedlabError(
                f"every client of round {round} failed, the first with: {said}\n"
                "The run directory's events.jsonl holds each traceback"
            )
        note = f"{settings.cohort - len(reasons)} clients"
        every = settings.evaluate_every
        if round == settings.rounds or (every is not None and round % every == 0):
            loss, accuracy, _ = evaluate(model, task, tensors(arrays))
            history.append({"round": round, "accuracy": accuracy, "loss": loss})
            note += f", accuracy {accuracy:.3f}"
        progress.advance(job, round, note)
        return None

    result = strategy.start(
        TappedGrid(grid, watcher),
        ArrayRecord(model.state()),
        num_rounds=settings.rounds,
        evaluate_fn=after_round,
    )
    state = tensors(result.arrays) if len(result.arrays) else model.state()
    loss, accuracy, by_class = evaluate(model, task, state)
    for entry in history:
        train_metrics = result.train_metrics_clientapp.get(entry["round"])
        found = train_metrics.get("train-loss") if train_metrics else None
        entry["train_loss"] = None if found is None else float(str(found))
    progress.finish(job, f"accuracy {accuracy:.3f}")
    metrics = {
        "accuracy": accuracy,
        "loss": loss,
        "rounds": history,
        "per_client": per_client(task, owners, by_class),
        "failures": len(watcher.failures),
    }
    return Trained(cell, task, model, state, config, owners, watcher, metrics, weights_sha256(state))


def evaluate(
    model: FunctionalModel, task: Task, state: State
) -> tuple[float | None, float, NDArray[np.float64]]:
    """On the test set: mean loss (None if not finite), accuracy, accuracy by class (NaN without records)."""
    data, loss = task.test, 0.0
    right = np.zeros(len(data), dtype=bool)
    with torch.no_grad():
        for start in range(0, len(data), EVALUATION_BATCH):
            ids = np.arange(start, min(start + EVALUATION_BATCH, len(data)))
            outputs, _ = model(state, data.images(ids), training=False)
            labels = data.labels(ids)
            loss += float(task.loss(outputs, labels).double().sum())
            right[ids] = (outputs.argmax(1) == labels).numpy()
    counts = np.bincount(data.y, minlength=task.classes)
    hits = np.bincount(data.y, weights=right, minlength=task.classes)
    by_class = np.divide(hits, counts, out=np.full(task.classes, np.nan), where=counts > 0)
    mean = loss / len(data) if np.isfinite(loss) else None  # a diverged model; JSON has no infinity
    return mean, float(right.mean()), by_class


def per_client(
    task: Task, owners: Sequence[NDArray[np.int64]], by_class: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Test accuracy as each client meets it: weighted by the client's own mix of labels."""
    rows = []
    for client, ids in enumerate(owners):
        mix = np.bincount(task.train.y[ids], minlength=task.classes) * np.isfinite(by_class)
        accuracy = float(np.nansum(by_class * mix) / mix.sum()) if mix.sum() else None
        rows.append({"client": client, "records": len(ids), "accuracy": accuracy})
    return rows


def weights_sha256(state: State) -> str:
    """Hash of names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def check_disk(scenario: Scenario, model: FunctionalModel, cells: int) -> None:
    """Refuse, before training, observations that would outgrow audit.max_disk_mb.

    Raises:
        UsageError: they would.
    """
    values = sum(value.numel() for value in model.state().values())
    updates = cells * len(scenario.audit.rounds) * (scenario.strategy.cohort + 1)
    megabytes = 4.0 * values * updates / 1e6
    if megabytes > scenario.audit.max_disk_mb:
        raise UsageError(
            f"the observations of {cells} cells, {len(scenario.audit.rounds)} rounds and cohorts of"
            f" {scenario.strategy.cohort} would take {megabytes:,.3g} MB; audit.max_disk_mb is"
            f" {scenario.audit.max_disk_mb:,.6g}. Observe fewer rounds, or raise it"
        )
