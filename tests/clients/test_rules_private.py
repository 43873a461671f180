"""Local rules under DP-SGD: which it refuses, and that what SCAFFOLD sends was made of private gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.private_gradients import PrivateRule
from fedlab_defenses.privacy.thresholds import Flat

from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules.hyperfl import HyperFL
from fedlab.clients.rules.momentum import FedAvgMVR
from fedlab.clients.rules.personal import PersonalHead
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.rules.scaffold_momentum import ScaffoldMVR
from fedlab.errors import UsageError
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy
from tests.clients.rules import RULES, cohort
from tests.conftest import dropout_mlp

CONFIG = ClientConfig(batch_size=4, local_steps=6, sampling="poisson", learning_rate=0.1)
FEDERATION = Federation((12, 12), 1, CONFIG)
TOO_MUCH = {"scaffold-I": "all records at once", "mime-lite": "all records at once"} | dict.fromkeys(
    ("fedavg-m-vr", "scaffold-m-vr"), "several gradients a step"
)


@pytest.mark.parametrize("name", RULES)
def test_rules_that_look_at_records_more_than_once_a_step_are_refused(small_data: Dataset, name: str) -> None:
    """The others train."""
    defense = DPSGD(noise_multiplier=1.0)
    if name in TOO_MUCH:
        with pytest.raises(UsageError, match=f"cannot protect the local rule .*{TOO_MUCH[name]}"):
            defense.local_rule(RULES[name](), FEDERATION)
        return
    rule = defense.local_rule(RULES[name](), FEDERATION)
    training, jobs = cohort(small_data, dropout_mlp, rule, CONFIG, [12, 12])
    for job, found in zip(jobs, training(jobs), strict=True):
        assert all(bool(torch.isfinite(value).all()) for value in found.state.values())
        assert not torch.equal(found.state["1.weight"], job.state["1.weight"])


@pytest.mark.parametrize("rule", [FedAvgMVR, ScaffoldMVR])
def test_without_variance_reduction_one_gradient_is_left(rule: type[FedAvgMVR]) -> None:
    assert rule(beta=1.0).gradients == 1 and rule(beta=0.5).gradients == 2
    PrivateRule(rule(beta=1.0), 1.0, Flat(1.0), 4)


def test_a_control_variate_under_dp_sgd_is_made_of_what_the_noise_covers(small_data: Dataset) -> None:
    """Without memory, K η c_i⁺ = x − y exactly: c_i⁺ tells no more than the private update does.

    And empty batches, whose gradients are noise alone, give the same c_i⁺ on any records.
    """
    model = FunctionalModel(dropout_mlp(), small_data.shape)
    rule = DPSGD(noise_multiplier=1.0).local_rule(Scaffold(), FEDERATION)
    training = LocalTraining(model, cross_entropy, small_data, rule, CONFIG, seed=3)
    start = model.state()
    server = {f"control/{name}": torch.zeros_like(value) for name, value in start.items()}
    plan = [np.arange(4)] * 6

    def run(records: np.ndarray, plan: list[np.ndarray]) -> dict[str, torch.Tensor]:
        job = ClientJob(0, 1, start, {}, records, plan, server)
        found = training([job])[0]
        for name, value in start.items():
            moved = (value - found.state[name]) / (6 * 0.1)
            torch.testing.assert_close(found.uplink[f"control/{name}"], moved, rtol=1e-4, atol=1e-5)
        return found.uplink

    run(np.arange(12), plan)
    empty = [np.array([], dtype=np.int64)] * 6
    one, other = run(np.arange(12), empty), run(np.arange(40, 52), empty)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", [PersonalHead, HyperFL])
def test_rules_whose_clients_test_models_of_their_own_are_refused(rule: type[LocalRule]) -> None:
    """What they answer is weighted by their labels, and has no noise."""
    with pytest.raises(UsageError, match=f"cannot protect the local rule {rule.__name__}.*personal"):
        DPSGD(noise_multiplier=1.0).local_rule(rule(), FEDERATION)
