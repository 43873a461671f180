"""Where a result came from: versions, machine, data, records."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from typing import Any

from fedlab import __version__
from fedlab.audit.truth import Truth
from fedlab.tasks import Dataset, FunctionalModel, Task
from fedlab.tasks.population import Generated

PACKAGES = ("torch", "flwr", "ray", "opacus", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Of fedlab, Python and what decides the numbers."""
    found = {"fedlab": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """System and processor, without a host name."""
    return {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()}


def describe_data(task: Task) -> dict[str, Any]:
    """Name, source, licence, hash and size of the records, None where clients have their own without end."""
    both = hashlib.sha256((task.train.sha256() + task.test.sha256()).encode()).hexdigest()
    return {
        "name": task.name,
        "source": task.train.source,
        "licence": task.train.licence,
        "sha256": both,
        "synthetic": task.train.synthetic,
        "train": len(task.train) if isinstance(task.train, Dataset) else None,
        "generated": isinstance(task.train, Generated),
        "test": len(task.test),
        "shape": list(task.input_shape),
        "classes": task.classes,
    }


def describe_model(name: str, params: dict[str, Any], model: FunctionalModel) -> dict[str, Any]:
    """Name, knobs and number of learned parameters."""
    state = model.state()
    return {
        "name": name,
        "params": params,
        "parameters": sum(state[key].numel() for key in model.parameter_names),
    }


def record_hashes(truth: Truth) -> list[str]:
    """sha256 of each record's pixels: enough to recognise a record, not to see it."""
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in truth.images]
