"""Layers that draw: noise comes in from outside, as dropout masks do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedlab.tasks import FunctionalModel
from fedlab.tasks.layers import GaussianSample


class Bottleneck(nn.Module):
    """A variational bottleneck: mean and deviation of a hidden code, a draw of it, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(6, 3), nn.Linear(6, 3)
        self.draw = GaussianSample()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        drawn: Tensor = self.draw(self.mean(flat), self.spread(flat).exp())
        return self.head(drawn)  # type: ignore[no-any-return]


def test_noise_is_an_argument() -> None:
    net = Bottleneck()
    model = FunctionalModel(net, (1, 2, 3))
    assert model.noise_shapes == {"draw": torch.Size([3])}
    x = torch.rand(4, 1, 2, 3)
    noise = model.draw_noise(4, torch.Generator().manual_seed(0))
    assert noise["draw"].shape == (4, 3)
    outputs, _ = model(model.state(), x, training=True, noise=noise)
    flat = x.flatten(1)
    expected = net.head(net.mean(flat) + net.spread(flat).exp() * noise["draw"])
    torch.testing.assert_close(outputs, expected)


def test_without_noise_it_gives_the_mean_and_training_asks_for_some() -> None:
    net = Bottleneck()
    model = FunctionalModel(net, (1, 2, 3))
    x = torch.rand(4, 1, 2, 3)
    outputs, _ = model(model.state(), x, training=False)
    torch.testing.assert_close(outputs, net.head(net.mean(x.flatten(1))))
    with pytest.raises(ValueError, match="draw_noise"):
        model(model.state(), x, training=True)


def test_a_layer_that_draws_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.draw = GaussianSample()

        def forward(self, x: Tensor) -> Tensor:
            once: Tensor = self.draw(x * self.weight, x)
            return self.draw(once, x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="used twice"):
        FunctionalModel(Twice(), (3,))
