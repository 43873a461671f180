"""Agreement with other libraries: byzfl 0.0.11, and flwr 1.41 where it is right.

byzfl's own `__init__` imports torchvision; only its aggregators are wanted, so that an empty package stands
in for it. `make install` installs it without its dependencies.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, MultiKrum

from fedlab import plugins
from fedlab.strategies import Updates, as_aggregator
from tests.strategies.test_flwr_defects import flowers, ours

SEEDS = range(10)
load = functools.cache(plugins.load)  # finding a plugin takes longer than what is tested


@pytest.fixture(scope="module")
def byzfl() -> Any:
    spec = importlib.util.find_spec("byzfl")
    if spec is None:
        pytest.skip("byzfl is not installed: make install")
    package = types.ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["byzfl"] = package
    yield importlib.import_module("byzfl.aggregators")
    for name in [name for name in sys.modules if name.partition(".")[0] == "byzfl"]:
        del sys.modules[name]


def draw(n: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(size=(n, 4))


def combined(kind: str, name: str, rows: Any, **params: Any) -> Any:
    plugin, n = load(kind, name), len(rows)
    made = plugin(**params) if isinstance(plugin, type) else plugin
    given = Updates(torch.from_numpy(rows.copy()), torch.ones(n, dtype=torch.float64), tuple(range(n)))
    if kind == "preaggregators":
        return made(given).deltas.numpy()
    return as_aggregator(made).aggregate(given, {})[0].numpy()


@pytest.mark.parametrize(
    ("name", "params", "theirs", "their_params"),
    [
        ("mean", {}, "Average", {}),
        ("median", {}, "Median", {}),
        ("trimmed-mean", {"f": 3}, "TrMean", {"f": 3}),
        ("krum", {"f": 2}, "Krum", {"f": 3}),  # theirs counts n - f - 1 neighbours
        ("multi-krum", {"f": 2, "m": 8}, "MultiKrum", {"f": 3}),
        ("geometric-median", {"nu": 0.1}, "GeometricMedian", {"nu": 0.1, "T": 2000}),
        ("centered-clipping", {"tau": 0.8, "iterations": 3}, "CenteredClipping", {"tau": 0.8, "L": 3}),
    ],
)
def test_aggregators_agree_with_byzfl(
    byzfl: Any, name: str, params: dict[str, Any], theirs: str, their_params: dict[str, Any]
) -> None:
    for seed in SEEDS:
        rows = draw(11, seed)
        expected = getattr(byzfl, theirs)(**their_params)(rows.copy())
        np.testing.assert_allclose(combined("aggregators", name, rows, **params), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "params", "theirs", "their_params"),
    [
        ("nnm", {"f": 3}, "NNM", {"f": 3}),
        ("clipping", {"max_norm": 1.5}, "Clipping", {"c": 1.5}),
        ("arc", {"f": 3}, "ARC", {"f": 3}),
    ],
)
def test_preaggregators_agree_with_byzfl(
    byzfl: Any, name: str, params: dict[str, Any], theirs: str, their_params: dict[str, Any]
) -> None:
    for seed in SEEDS:
        rows = draw(11, seed)
        expected = getattr(byzfl, theirs)(**their_params)(rows.copy())
        np.testing.assert_allclose(combined("preaggregators", name, rows, **params), expected, atol=1e-12)


def test_rules_agree_with_flowers_in_float64() -> None:
    """Flower trims the share β at each end: .2 of 11 are 2."""
    for seed in SEEDS:
        rows = draw(11, seed).tolist()
        pairs = [
            (FedTrimmedAvg(beta=0.2), ours("trimmed-mean", rows, f=2)),
            (Krum(num_malicious_nodes=2), ours("krum", rows, f=2)),
            (MultiKrum(num_malicious_nodes=2, num_nodes_to_select=6), ours("multi-krum", rows, f=2, m=6)),
            (FedMedian(), np.median(np.array(rows), axis=0).tolist()),
        ]
        for strategy, expected in pairs:
            assert flowers(strategy, rows) == pytest.approx(expected, abs=1e-12)
