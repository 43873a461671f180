"""Shared fixtures: small networks, a small task; and which files come first."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

import fedlab  # noqa: F401  (switches telemetry off before flwr and ray are imported)
from fedlab.tasks import Dataset, Task

# A shell has what it starts in the background ignore Ctrl-C, and every process inherits that from its parent.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fedlab", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("fedlab")


LONG = ("ray", "timeout")
"""Markers of tests that start processes."""


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed to workers in the order below, and not those with most tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes take longest: begun last, they would leave one worker to wait."""
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in LONG)}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests compare bits, and two cores serve many."""
    torch.set_num_threads(1)
    yield


def dropout_mlp() -> nn.Module:
    """16 -> 12 -> 3 with dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


def batch_norm_mlp() -> nn.Module:
    """16 -> 12 -> 3 with batch norm and dropout."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.25), nn.Linear(12, 3)
    )


@pytest.fixture
def small_data() -> Dataset:
    """90 synthetic 4x4 images in three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(rng.random((90, 1, 4, 4)) * 0.5 + y[:, None, None, None] * 0.2, 0, 1).astype(np.float32)
    return Dataset("small", x, y.astype(np.int64), 3, source="made by the tests", synthetic=True)


@pytest.fixture
def small_task(small_data: Dataset) -> Task:
    return Task(train=small_data, test=small_data, network=dropout_mlp)
