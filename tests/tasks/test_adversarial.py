"""Projected gradient ascent: exact on a linear model, never out of bounds, harmless where it may not move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from fedlab.tasks.adversarial import ascend, attacked, robust_accuracy
from tests.conftest import batch_norm_mlp, dropout_mlp


def linear() -> nn.Module:
    """Two classes, logit difference w·x with w = (1, −2, 0, 4)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0] * 4, [1.0, -2.0, 0.0, 4.0]]))
        net[1].bias.zero_()
    return net


X = torch.tensor([[0.5, 0.5, 0.5, 0.95], [0.05, 0.5, 0.3, 0.5]]).reshape(2, 1, 2, 2)


def test_on_a_linear_model_one_large_step_finds_the_worst_corner() -> None:
    """The loss of class 0 rises along w: x + ρ sign(w), cut to [0, 1]; a pixel without weight stays."""
    model = FunctionalModel(linear(), (1, 2, 2))
    y, state = torch.tensor([0, 1]), model.state()

    def slope(pixels: torch.Tensor) -> torch.Tensor:
        def total(values: torch.Tensor) -> torch.Tensor:
            return cross_entropy(model(state, values, training=False)[0], y).sum()

        return torch.func.grad(total)(pixels)

    found = ascend(slope, X, torch.zeros_like(X), rho=0.1, alpha=1.0, steps=1)
    expected = torch.tensor([[0.6, 0.4, 0.5, 1.0], [0.0, 0.6, 0.3, 0.4]]).reshape(2, 1, 2, 2)
    torch.testing.assert_close(found, expected)
    generator = seeds.torch_generator(0, "test")
    twenty = attacked(model, state, cross_entropy, X, y, generator, rho=0.1)
    weighty = torch.tensor([True, True, False, True]).reshape(1, 1, 2, 2).expand_as(X)
    torch.testing.assert_close(twenty[weighty], expected[weighty], msg="from anywhere in the ball")


@given(
    pixels=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    slopes=st.lists(st.sampled_from([-3.0, 0.0, 1e-30, 2.0]), min_size=4, max_size=4),
    start=st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4),
    rho=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    alpha=st.sampled_from([0.01, 0.2, 5.0]),
    steps=st.integers(0, 4),
)
def test_nothing_leaves_the_ball_nor_the_range_of_pixels(
    pixels: list[float], slopes: list[float], start: list[float], rho: float, alpha: float, steps: int
) -> None:
    x, along = torch.tensor(pixels), torch.tensor(slopes)
    found = ascend(lambda now: along, x, torch.tensor(start), rho, alpha, steps)
    assert bool((found >= 0.0).all()) and bool((found <= 1.0).all())
    assert float((found - x).abs().max()) <= rho + 1e-7  # one rounding of float32


def trained_linear(data: Dataset) -> tuple[FunctionalModel, State]:
    """Softmax regression, fitted by 200 steps of gradient descent."""
    model = FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data.shape)
    state = {name: torch.zeros_like(value) for name, value in model.state().items()}
    x, y = data.images(range(len(data))), data.labels(range(len(data)))
    for _ in range(200):
        slope = torch.func.grad(lambda s: cross_entropy(model(s, x, training=False)[0], y).mean())(state)
        state = {name: value - 1.0 * slope[name] for name, value in state.items()}
    return model, state


def test_accuracy_falls_with_the_radius_and_is_the_clean_one_without(small_data: Dataset) -> None:
    model, state = trained_linear(small_data)
    clean, little, much = (
        robust_accuracy(model, state, cross_entropy, small_data, 1, rho=r) for r in (0.0, 0.08, 0.3)
    )
    outputs, _ = model(state, small_data.images(range(90)), training=False)
    hits = outputs.argmax(1) == small_data.labels(range(90))
    assert clean == float(hits.double().mean()) > 0.7
    assert clean > little > much and much < 0.1
    assert little == robust_accuracy(model, state, cross_entropy, small_data, 1, rho=0.08)


@pytest.mark.parametrize("network", [dropout_mlp, batch_norm_mlp])
def test_an_attack_on_one_image_knows_of_no_other(small_data: Dataset, network: object) -> None:
    """Inference mode: batch statistics would mix them, and dropout would be chance."""
    model = FunctionalModel(network(), small_data.shape)  # type: ignore[operator]
    state, ids = model.state(), np.arange(6)
    x, y = small_data.images(ids), small_data.labels(ids)

    def found(many: int) -> torch.Tensor:
        generator = seeds.torch_generator(5, "test")  # fills rows in order: the first are the same
        return attacked(model, state, cross_entropy, x[:many], y[:many], generator, rho=0.1, steps=3)

    torch.testing.assert_close(found(6)[:2], found(2))
    losses = [cross_entropy(model(state, images, training=False)[0], y) for images in (x, found(6))]
    assert bool((losses[1] > losses[0]).all())


@pytest.mark.parametrize("wrong", [{"rho": -0.1}, {"rho": 0.1, "steps": 0}, {"rho": 0.1, "alpha": 0.0}])
def test_numbers_out_of_range_are_refused(small_data: Dataset, wrong: dict[str, float]) -> None:
    model = FunctionalModel(dropout_mlp(), small_data.shape)
    with pytest.raises(UsageError, match="expected rho >= 0, alpha > 0, steps >= 1"):
        robust_accuracy(model, model.state(), cross_entropy, small_data, 0, **wrong)  # type: ignore[arg-type]
