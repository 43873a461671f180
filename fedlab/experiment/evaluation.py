"""How good a trained model is, over all, as each client meets it and for whoever attacked it; and the hash of
its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlab.adversaries import Adversary, Group
from fedlab.runtime.arrays import aligned
from fedlab.tasks import FunctionalModel, State, Task

EVALUATION_BATCH = 1000

TOLD = 10_000
"""Clients whose own accuracy is told at most."""


def evaluate(
    model: FunctionalModel, task: Task, state: State
) -> tuple[float | None, float, NDArray[np.float64]]:
    """On the test set: mean loss (None if not finite), accuracy, accuracy by class (NaN without records)."""
    data, loss, state = task.test, 0.0, aligned(state)
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


def told(clients: int, took_part: Iterable[int]) -> Sequence[int]:
    """The clients whose own accuracy is told: all, or of many the first of those who took part."""
    return range(clients) if clients <= TOLD else sorted(took_part)[:TOLD]


def per_client(
    task: Task,
    owners: Sequence[NDArray[np.int64]],
    by_class: NDArray[np.float64],
    adversaries: Sequence[Group] = (),
    clients: Iterable[int] | None = None,
) -> list[dict[str, Any]]:
    """Test accuracy as each client meets it: weighted by the client's own mix of labels.

    Rows of adversaries bear the label under which they attack.

    Args:
        by_class: accuracy of each class, NaN where none was tested.
        clients: of whom to tell; of all unless given.
    """
    attacks = {client: group.label for group in adversaries for client in group.clients}
    rows = []
    for client in range(len(owners)) if clients is None else clients:
        ids = owners[client]
        mix = np.bincount(task.train.labels(ids).numpy(), minlength=task.classes) * np.isfinite(by_class)
        accuracy = float(np.nansum(by_class * mix) / mix.sum()) if mix.sum() else None
        row = {"client": client, "records": len(ids), "accuracy": accuracy}
        rows.append(row | ({"adversary": attacks[client]} if client in attacks else {}))
    return rows


def integrity(
    model: FunctionalModel, task: Task, state: State, adversaries: Sequence[Group]
) -> list[dict[str, Any]]:
    """For each group of adversaries: who they are, what they know, and how often they got what they want.

    Where clients keep parameters to themselves, no one model could be asked, and success has no figure.
    """
    rows, whole = [], set(model.parameter_names) <= set(state)
    for group in adversaries:
        rate, trials = attack_success(model, task, state, group.adversary) if whole else (None, 0)
        rows.append(
            {
                "label": group.label,
                "clients": list(group.clients),
                "knows": group.adversary.knows,
                "wants": group.adversary.wants,
                "success": rate,
                "trials": trials,
            }
        )
    return rows


def attack_success(
    model: FunctionalModel, task: Task, state: State, adversary: Adversary
) -> tuple[float | None, int]:
    """(share of the test records on which the adversary has its way, their number); None without an aim."""
    data, hits, trials, state = task.test, 0, 0, aligned(state)
    for ids in np.array_split(np.arange(len(data)), -(-len(data) // EVALUATION_BATCH)):
        aimed = adversary.aim(data.images(ids), data.labels(ids), data.classes)
        if aimed is None:
            return None, 0
        images, wanted = aimed
        with torch.no_grad():
            outputs, _ = model(state, images, training=False)
        counted = wanted >= 0
        hits += int((outputs.argmax(1) == wanted)[counted].sum())
        trials += int(counted.sum())
    return (hits / trials if trials else None), trials


def weights_sha256(state: State) -> str:
    """Hash of names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
