"""Federated adversarial training: what a step trains on, and that only it changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlab import seeds
from fedlab.clients import ClientConfig
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import Batch
from fedlab.clients.rules.adversarial import AdversarialTraining
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from fedlab.tasks.adversarial import robust_accuracy
from tests.conftest import batch_norm_mlp

RHO, ALPHA, STEPS = 0.1, 0.04, 3


class Watched(AdversarialTraining):
    """Notes what its steps train on."""

    def __init__(self) -> None:
        super().__init__(rho=RHO, alpha=ALPHA, steps=STEPS)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def perturb(self, grad_fn: Callable[..., Tensor], parameters: State, batch: Batch) -> Batch:
        found = super().perturb(grad_fn, parameters, batch)
        self.seen.append((batch.x, found.x))
        return found


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def job(model: FunctionalModel, client: int, records: int, plan: list[list[int]]) -> ClientJob:
    steps = [np.array(step) for step in plan]
    return ClientJob(client, 2, model.state(), {}, np.arange(client * 9, client * 9 + records), steps)


def test_a_step_is_sgd_on_images_searched_by_hand(small_data: Dataset) -> None:
    """Softmax regression: ∇_x ℓ = Wᵀ(p − e_y), ∇_W ℓ = (p − e_y) xᵀ, from the client's own starting point."""
    model = FunctionalModel(softmax(), small_data.shape)
    rule = AdversarialTraining(rho=RHO, alpha=ALPHA, steps=STEPS)
    config = ClientConfig(batch_size=4, learning_rate=0.5)
    training = LocalTraining(model, cross_entropy, small_data, rule, config, seed=3)
    result = training([job(model, 0, 6, [[0, 1, 2, 3], [4, 5]]), job(model, 1, 6, [[0, 1, 2, 3], [4, 5]])])[1]
    w, b = (model.state()[name].double() for name in ("1.weight", "1.bias"))
    for step, picks in enumerate([[0, 1, 2, 3], [4, 5]]):
        ids = 9 + np.array(picks)
        x, y = small_data.images(ids).double().flatten(1), small_data.labels(ids)
        start = torch.rand(len(ids), 1, 4, 4, generator=seeds.torch_generator(3, "noise", 2, 1, step))
        found = (x + RHO * (2.0 * start.double().flatten(1) - 1.0)).clamp(0, 1)
        for _ in range(STEPS):
            error = (found @ w.T + b).softmax(1) - nn.functional.one_hot(y, 3)
            found = found + ALPHA * (error @ w).sign()
            found = torch.minimum(torch.maximum(found, x - RHO), x + RHO).clamp(0, 1)
        error = (found @ w.T + b).softmax(1) - nn.functional.one_hot(y, 3)
        w, b = w - 0.5 * error.T @ found / len(ids), b - 0.5 * error.mean(0)
    torch.testing.assert_close(result.state["1.weight"].double(), w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.state["1.bias"].double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [softmax, batch_norm_mlp])
def test_what_is_trained_on_stays_in_the_ball_and_in_range(
    small_data: Dataset, network: Callable[[], nn.Module]
) -> None:
    """One by one, so that the tensors can be looked at."""
    model, rule = FunctionalModel(network(), small_data.shape), Watched()
    config = ClientConfig(batch_size=4, learning_rate=0.5)
    training = LocalTraining(model, cross_entropy, small_data, rule, config, seed=3, stacked=False)
    training([job(model, 0, 8, [[0, 1, 2, 3], [4, 5, 6, 7]])])
    assert len(rule.seen) == 2
    for clean, found in rule.seen:
        moved = (found - clean).abs()
        assert float(moved.max()) <= RHO + 1e-7 and float(moved.mean()) > RHO / 4
        assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0


def test_padding_changes_nothing(small_data: Dataset) -> None:
    """Two records beside a client of eight: as alone, in float64."""
    model = FunctionalModel(batch_norm_mlp().double(), small_data.shape)
    rule, config = AdversarialTraining(rho=RHO, steps=STEPS), ClientConfig(batch_size=8)
    training = LocalTraining(model, cross_entropy, small_data, rule, config, seed=3)
    small, large = job(model, 0, 2, [[0, 1]]), job(model, 1, 8, [list(range(8))])
    together, alone = training([small, large])[0], training([small])[0]
    for name, value in alone.state.items():
        torch.testing.assert_close(together.state[name], value, rtol=1e-12, atol=1e-14)
    assert together.loss == pytest.approx(alone.loss, rel=1e-12)


def test_training_on_hard_images_gives_a_model_that_withstands_more(small_data: Dataset) -> None:
    """Softmax regression by 300 steps of one client: 0.46 of the records survive PGD-20, or 0.67."""
    model, ids = FunctionalModel(softmax(), small_data.shape), np.arange(90)
    config, robust = ClientConfig(batch_size=0, learning_rate=0.5), []
    for steps in (0, 5):
        rule = AdversarialTraining(rho=RHO, steps=steps)
        training = LocalTraining(model, cross_entropy, small_data, rule, config, seed=3, stacked=False)
        state = training([ClientJob(0, 1, model.state(), {}, ids, [ids] * 300)])[0].state
        robust.append(robust_accuracy(model, state, cross_entropy, small_data, 1, rho=RHO))
    assert robust[1] > robust[0] + 0.1
