"""How good a trained model is, over all and as each client meets it; and the hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlab.runtime.arrays import aligned
from fedlab.tasks import FunctionalModel, State, Task

EVALUATION_BATCH = 1000


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
