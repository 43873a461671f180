"""What optimizers' steps tell of gradients: sums of SGD, signs of Adam, and what is not reckoned with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from app_by_hand import batches, ran_by_hand
from test_app_audit import audited, row
from torch import nn

from fedlab.apps.contract import Ran
from fedlab.apps.facts import Facts, infer
from fedlab.apps.given import Adapter
from fedlab.apps.groups import settings_of
from fedlab.apps.recorder import Recorder
from fedlab.apps.stepping import NORMALISED

SHAPE = (1, 6, 6)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10))


def stepped(name: str, sizes: tuple[int, ...] = (4,), clients: int = 1, **settings: Any) -> Ran:
    data = [batches(sizes, SHAPE, seed=seed) for seed in range(clients)]
    return ran_by_hand(mlp(), data, optimizer=getattr(torch.optim, name), settings=settings)


def facts_of(name: str, sizes: tuple[int, ...] = (4,), **settings: Any) -> Facts:
    return infer(stepped(name, sizes, **settings), Adapter())


@pytest.mark.parametrize("name", sorted(NORMALISED))
def test_a_first_step_has_the_sign_of_the_gradient_and_one_size(name: str) -> None:
    """lr g / (|g| + ε), whatever |g|, up to a factor of the optimizer's own and the sizes near ε."""
    weight = torch.tensor([0.5, -0.25, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    before = weight.detach().clone()
    getattr(torch.optim, name)([weight], lr=0.01).zero_grad()
    weight.grad = torch.tensor([1.0, -20.0, 5.0, -400.0], dtype=torch.float64)
    getattr(torch.optim, name)([weight], lr=0.01, weight_decay=0.0).step()
    moved = weight.detach() - before
    assert torch.equal(moved.sign(), -weight.grad.sign())
    assert float(moved.abs().max() / moved.abs().min()) < 1.0 + 1e-4


def test_adam_is_attacked_by_its_signs(tmp_path: Path) -> None:
    """Of one record the one class whose bias rises is its label: 8 of 8, where 1 in 10 would be by chance."""
    report = audited(stepped("Adam", (1,), clients=8, lr=1e-3), tmp_path, ("label-recovery",))
    found = row(report, "label-recovery")
    assert found["label_accuracy"] == 1.0 and found["threat_label"] == ""
    (told,) = [one for one in report.data["app"]["facts"] if one["name"] == "update tells"]
    assert "signs" in told["value"] and not report.data["app"]["obstacles"]


def test_several_steps_of_adam_are_a_doubt() -> None:
    assert facts_of("Adam").doubts == []
    facts = facts_of("Adam", (4, 4))
    assert facts.view is not None and facts.view.disclosure.sent == "signs"
    assert "several steps of Adam" in facts.doubts[0] and "may recover more" in facts.doubts[0]


def test_what_sgd_sends_has_values() -> None:
    facts = facts_of("SGD", (4, 4), momentum=0.9)
    assert facts.view is not None and facts.view.disclosure.sent == "all" and facts.doubts == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 0.9, "nesterov": True}, "Nesterov"),
        ({"momentum": 0.9, "dampening": 0.5}, "dampening 0.5"),
    ],
)
def test_momentum_of_another_kind_is_a_doubt_over_several_steps(settings: dict[str, Any], words: str) -> None:
    """A first step has none of it but Nesterov's factor, which attackers are told in the learning rate."""
    assert facts_of("SGD", **settings).doubts == []
    assert words in facts_of("SGD", (4, 4), **settings).doubts[0]


def test_one_step_of_nesterov_is_longer_by_its_momentum() -> None:
    """torch steps by lr (g + μ b) with b = g at first: the update is -lr (1 + μ) g."""
    ran = stepped("SGD", momentum=0.5, nesterov=True)
    rate = infer(ran, Adapter()).told[1, 0].learning_rate
    assert rate == pytest.approx(0.15)
    network, (step,) = ran.recordings[1, 0].network, ran.recordings[1, 0].steps
    assert network is not None and rate is not None
    nn.functional.cross_entropy(network(step.inputs), step.targets).backward()  # type: ignore[no-untyped-call]
    for name, value in network.named_parameters():
        sent = torch.as_tensor(ran.sights[0].after[name]) - torch.as_tensor(ran.sights[0].before[name])
        assert value.grad is not None
        assert torch.allclose(sent, -rate * value.grad, atol=1e-7)


def test_decay_within_adam_is_a_doubt_and_beside_it_is_told() -> None:
    assert "weight decay within Adam" in facts_of("Adam", weight_decay=0.1).doubts[0]
    facts = facts_of("AdamW", weight_decay=0.1)
    assert facts.doubts == [] and facts.told[1, 0].weight_decay == 0.1
    assert facts_of("Adam", weight_decay=0.1).told[1, 0].weight_decay == 0.0


def test_groups_that_differ_are_a_doubt() -> None:
    network, (batch, *_) = mlp(), batches([4], SHAPE)
    first, *others = network.parameters()
    groups = [{"params": [first]}, {"params": others, "lr": 0.2, "weight_decay": 0.1}]
    with Recorder() as recorder:
        optimizer = torch.optim.SGD(groups, lr=0.1)
        nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = recorder.recording().optimizer
    assert found is not None and found.differ == ("lr", "weight_decay")


@pytest.mark.parametrize("name", ["LBFGS", "Rprop"])
def test_other_optimizers_are_not_attacked(name: str) -> None:
    ran = stepped("SGD")
    recording = ran.recordings[1, 0]
    assert recording.optimizer is not None
    object.__setattr__(recording.optimizer, "name", name)
    assert name in infer(ran, Adapter()).obstacles[0]


def test_steps_uphill_are_not_attacked() -> None:
    assert "uphill" in facts_of("SGD", maximize=True).obstacles[0]


def test_settings_are_what_can_be_told() -> None:
    group = {"lr": torch.tensor(0.5), "betas": (0.9, 0.99), "params": [torch.ones(2)], "foreach": None}
    assert settings_of(group) == {"lr": 0.5, "betas": (0.9, 0.99), "foreach": None}
    assert math.isclose(settings_of({"lr": 0.1})["lr"], 0.1)
