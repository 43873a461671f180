"""Batch norm that comes into a network behind a private defense's own look at it is refused all the same."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from fedlab.audit.stack import Stack
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.errors import UsageError
from fedlab.experiment.setup import set_up
from fedlab.scenario import load
from fedlab.tasks import FunctionalModel

FEDERATION = Federation((20,) * 4, 10, ClientConfig(), cohort=4)
PRIVATE = ["dp-sgd", "user-dp", "dp-ftrl", "local-dp", "distributed-dp"]
SURGERY = {"name": "architecture", "norm": "batch"}


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))


def met(*layers: dict[str, Any]) -> FunctionalModel:
    """The network that the stack makes, met by its rule."""
    stack = Stack(of=list(layers))
    model = FunctionalModel(stack.network(grouped)(), (1, 4, 4))
    stack.local_rule(LocalRule(), FEDERATION).meet(model)
    return model


@pytest.mark.parametrize("name", PRIVATE)
def test_surgery_behind_the_defense_is_refused_by_name(name: str) -> None:
    private = {"name": name, "noise_multiplier": 4.0}
    with pytest.raises(UsageError, match=rf"{name} cannot protect .* batch norm \(1\), .* in the stack"):
        met(private, SURGERY)
    assert not met(private, {"name": "architecture", "norm": "layer"}).has_batch_norm


def test_dp_sgd_that_mends_batch_norm_mends_what_came_before_it_and_not_after() -> None:
    mending = {"name": "dp-sgd", "noise_multiplier": 4.0, "fix": True}
    assert not met(SURGERY, mending).has_batch_norm
    with pytest.raises(UsageError, match="dp-sgd cannot protect"):
        met(mending, SURGERY)


def test_the_run_is_refused_before_it_begins() -> None:
    stack = {"name": "stack", "of": [{"name": "dp-sgd", "noise_multiplier": 4.0}, SURGERY]}
    settings = {
        "schema": 1,
        "task": {"dataset": "digits", "model": {"name": "convnet", "norm": "group"}},
        "clients": {"count": 4},
        "strategy": {"rounds": 1, "cohort": 2, "aggregator": "mean"},
        "defenses": [stack],
        "privacy": {"check": False},
    }
    setup = set_up(load(settings))
    with pytest.raises(UsageError, match="dp-sgd cannot protect a network with batch norm"):
        setup.parts(setup.cells[0])
