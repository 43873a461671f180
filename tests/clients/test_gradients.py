"""Gradients record by record as outer products: equal to those written out, and only where they are such."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from fedlab.clients.gradients import Gradients, Outer, linear_layers
from fedlab.clients.rules import Batch
from fedlab.tasks import FunctionalModel, cross_entropy
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.mlp import mlp
from fedlab.tasks.models.softmax import softmax
from fedlab.tasks.models.vit import vit

SHAPE, CLASSES, RECORDS = (1, 4, 4), 3, 6


def doubled(batch: Batch) -> Batch:
    """Each record beside its mirror image."""
    twice = torch.stack([batch.x, batch.x.flip(-1)], dim=1).flatten(0, 1)
    return batch._replace(
        x=twice,
        y=batch.y.repeat_interleave(2),
        rows=batch.rows.repeat_interleave(2),
        masks={name: mask.repeat_interleave(2, 0) for name, mask in batch.masks.items()},
    )


@pytest.mark.parametrize("expand", [lambda batch: batch, doubled], ids=["as they are", "doubled"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(SHAPE, CLASSES, width=5, dropout=0.3),
        lambda: mlp(SHAPE, CLASSES, width=[4, 7], activation="tanh", first_bias=False),
        lambda: softmax(SHAPE, CLASSES, init="torch"),
    ],
)
def test_outer_products_are_the_gradients_that_autograd_writes_out(
    make: Callable[[], nn.Module], expand: Callable[[Batch], Batch]
) -> None:
    model = FunctionalModel(make().double(), SHAPE)
    generator = torch.Generator().manual_seed(2)
    batch = Batch(
        x=torch.rand(RECORDS, *SHAPE, generator=generator, dtype=torch.float64),
        y=torch.randint(CLASSES, (RECORDS,), generator=generator),
        rows=torch.ones(RECORDS, dtype=torch.float64),
        masks=model.draw_masks(RECORDS, generator),
        draws={},
        size=torch.tensor(float(RECORDS)),
    )
    state = model.state()
    parameters, layers = model.parameters_of(state), linear_layers(model)
    gradients = Gradients(model, cross_entropy, {}, training=True, expand=expand, layers=layers)

    def of(form: Callable[..., object]) -> Callable[[Tensor, Tensor, dict[str, Tensor]], object]:
        def one(x: Tensor, y: Tensor, masks: dict[str, Tensor]) -> object:
            kept = {name: mask[None] for name, mask in masks.items()}
            return form(parameters, batch._replace(x=x[None], y=y[None], rows=batch.rows[:1], masks=kept))

        return one

    plain, _ = vmap(of(gradients))(batch.x, batch.y, batch.masks)
    outer, aux = vmap(of(gradients.outer))(batch.x, batch.y, batch.masks)
    weights = torch.rand(RECORDS, generator=generator, dtype=torch.float64)
    assert outer.keys() == plain.keys() == parameters.keys() and aux.loss.shape == (RECORDS,)
    for name, value in plain.items():
        torch.testing.assert_close(outer[name].squares(), value.flatten(1).square().sum(1))
        total = torch.tensordot(weights, value, dims=1)
        torch.testing.assert_close(outer[name].weighted(weights).reshape(total.shape), total)


def test_a_gradient_of_several_rows_by_hand() -> None:
    """(1, 0)(1, 2)ᵀ + (0, 3)(1, 0)ᵀ = [[1, 2], [3, 0]], whose squares add up to 14."""
    one = Outer(torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]), torch.tensor([[[1.0, 2.0], [1.0, 0.0]]]))
    assert one.squares().tolist() == [14.0]
    assert one.weighted(torch.tensor([2.0])).tolist() == [[2.0, 4.0], [6.0, 0.0]]


class Twice(nn.Module):
    """Calls its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(self.layer(x.flatten(1)))
        return found


class Wide(nn.Module):
    """A linear layer on more than one vector of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x[:, 0]).mean(1)
        return found


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Twice, SHAPE),
        (Wide, SHAPE),
        (lambda: convnet((1, 8, 8), CLASSES), (1, 8, 8)),
        (lambda: vit((1, 8, 8), CLASSES), (1, 8, 8)),
        (lambda: mlp(SHAPE, CLASSES, norm="layer"), SHAPE),
        (lambda: mlp(SHAPE, CLASSES, norm="batch"), SHAPE),
    ],
)
def test_networks_with_other_layers_or_other_uses_are_left_to_autograd(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    assert linear_layers(FunctionalModel(make(), shape)) == ()
