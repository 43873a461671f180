"""The protocol's knobs, and HyperFL, as defenses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fedlab_defenses.hyperfl import HyperFL
from fedlab_defenses.protocol import Protocol

import fedlab
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules.hyperfl import HyperFL as Rule
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.tasks import Dataset
from tests.clients.rules import cohort
from tests.conftest import batch_norm_mlp

CONFIG = ClientConfig(batch_size=8, local_steps=3, learning_rate=0.1)
FEDERATION = Federation((10,), 1, CONFIG)


def test_what_is_not_given_stays() -> None:
    assert Protocol(batch_size=2).config(CONFIG) == ClientConfig(
        batch_size=2, local_steps=3, learning_rate=0.1
    )
    changed = Protocol(local_epochs=4, learning_rate=0.5).config(CONFIG)
    assert changed == ClientConfig(batch_size=8, local_epochs=4, learning_rate=0.5)
    assert Protocol(local_steps=7).config(ClientConfig(local_epochs=2)).local_steps == 7
    rule = LocalRule()
    assert Protocol(batch_size=0).local_rule(rule, FEDERATION) is rule


def test_statistics_that_are_withheld_come_back_as_they_were_sent(small_data: Dataset) -> None:
    """What is learned is the same; only the running mean and variance differ from a client that shares."""
    torch.manual_seed(0)
    net, found = batch_norm_mlp(), []
    for defense in (None, Protocol(share_buffers=False)):
        rule = LocalRule() if defense is None else defense.local_rule(LocalRule(), FEDERATION)
        training, jobs = cohort(small_data, lambda: net, rule, CONFIG, [9, 6])
        found.append(training(jobs)[0].state)
    for name, value in found[1].items():
        if "running" in name:
            assert torch.equal(value, jobs[0].state[name]) and not torch.equal(value, found[0][name])
        else:
            assert torch.equal(value, found[0][name])


def test_the_attacks_that_know_it_are_those_of_what_it_changes() -> None:
    assert "gia-estimate" in Protocol(share_buffers=False).adaptive
    assert "gia-estimate" not in Protocol(local_steps=5).adaptive


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "changes nothing as it is set"),
        ({"batch_size": -1}, "batch_size = -1; expected at least 0"),
        ({"local_steps": 0}, "local_steps = 0; expected at least 1"),
        ({"local_steps": 1, "local_epochs": 1}, "expected one of them"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0; expected a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Protocol(**given)


def test_hyperfl_is_the_rule_over_plain_fedavg_alone() -> None:
    defense = HyperFL(embedding=3, hidden=4, local_epochs=3)
    config = defense.config(CONFIG)
    assert (config.local_steps, config.local_epochs) == (None, 3)
    rule = defense.local_rule(LocalRule(), Federation((10,), 1, config))
    assert isinstance(rule, Rule) and (rule.embedding, rule.hidden) == (3, 4)
    with pytest.raises(UsageError, match="cannot be put over Scaffold"):
        defense.local_rule(Scaffold(), Federation((10,), 1, config))
    with pytest.raises(UsageError, match=r"clients.local_steps = 3, of which .* expected no local_steps"):
        HyperFL().local_rule(LocalRule(), FEDERATION)
    with pytest.raises(UsageError, match="local_epochs = 2; expected more than head_epochs = 2"):
        HyperFL(head_epochs=2, local_epochs=2)


def scenario(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "hyperfl",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": [6]}},
        "clients": {"count": 60, "batch_size": 8, "local_epochs": 2},
        "strategy": {"rounds": 1, "cohort": 4},
        "audit": {"victims": 1, "adaptive": False},
        "runtime": {"executor": "inline"},
        **changes,
    }


def test_hyperfl_is_one_of_several_defenses_and_the_same_as_its_rule(tmp_path: Path) -> None:
    """Attacks on the whole model are answered under one defense, and not applicable under the other."""
    sizes = {"embedding": 4, "hidden": 4}
    told = scenario(
        defenses=[{"name": "none"}, {"name": "hyperfl", **sizes}],
        attacks=[{"name": "linear-layer"}, {"name": "membership-loss"}],
    )
    fedlab.run(told, out=tmp_path / "defense")
    for attack in ("linear-layer", "membership-loss"):
        none, hyperfl = (
            json.loads((tmp_path / f"defense/attacks/{cell}-train-s0/{attack}.json").read_text())
            for cell in ("none", "hyperfl")
        )
        assert none["error"] is None
        assert "a part of the model stays with the clients (embedding, head.bias" in hyperfl["error"]
        assert not hyperfl["failed"]
    rule = {"name": "hyperfl", **sizes}
    fedlab.run(scenario(strategy={"rounds": 1, "cohort": 4, "local_rule": rule}), out=tmp_path / "rule")
    manifests = [json.loads((tmp_path / f"{run}/manifest.json").read_text()) for run in ("defense", "rule")]
    assert manifests[0]["cells"][1]["weights_sha256"] == manifests[1]["cells"][0]["weights_sha256"]
    cells = json.loads((tmp_path / "defense/metrics.json").read_text())["cells"]
    # The network's 64 * 6 + 6 and its head's 6 * 10 + 10, of which φ generates the first from 4 hidden units.
    plain, generated = 64 * 6 + 6, 4 * 4 + 4 + 5 * (64 * 6 + 6)
    assert cells["none-train-s0"]["parameters"] == plain + 70
    assert cells["hyperfl-train-s0"]["parameters"] == generated + 4 + 70


def test_a_rule_that_keeps_parameters_under_every_defense_refuses_the_scenario(tmp_path: Path) -> None:
    rule = {"name": "hyperfl", "embedding": 4, "hidden": 4}
    told = scenario(
        strategy={"rounds": 1, "cohort": 4, "local_rule": rule}, attacks=[{"name": "linear-layer"}]
    )
    with pytest.raises(UsageError, match="need the whole of it"):
        fedlab.run(told, out=tmp_path / "run")
