"""Priors: values by hand, and every gradient against finite differences in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedlab_attacks.optimise import priors
from fedlab_attacks.optimise.capture import Simulated, Term
from fedlab_attacks.optimise.order import epochs_agree
from fedlab_attacks.optimise.problem import LocalPlan, Problem, Statistics
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.recipes.training_client import buffers_apart
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlab.audit.victim import Victim
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise

SHAPE = (1, 4, 4)
LAYERS = {"1": 3, "4": 1, "6": 1}  # batch norm per channel, group and layer norm as one
RUNNING = ("1.running_mean", "1.running_var")
NOTHING = Simulated({}, {}, {})


def network() -> nn.Module:
    """All kinds of norm layers, dropout, and activations that are smooth, in float64."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Sigmoid(),
        nn.Dropout(0.5),
        nn.GroupNorm(1, 3),
        nn.Flatten(),
        nn.LayerNorm(48),
        nn.Linear(48, 4),
    ).double()


def problem(rows: int, records: int, owner: list[int] | None = None) -> Problem:
    """Rows of a network in training mode, with random targets for its norm layers."""
    model = FunctionalModel(initialise(network, 0), SHAPE)
    stream, state = torch.Generator().manual_seed(1), model.state()

    def rows_of(values: State) -> State:
        return {name: value.expand(rows, *value.shape) for name, value in values.items()}

    statistics: Statistics = {
        name: (
            torch.randn(rows, channels, generator=stream, dtype=torch.float64),
            torch.rand(rows, channels, generator=stream, dtype=torch.float64),
        )
        for name, channels in LAYERS.items()
    }
    return Problem(
        Victim(model, cross_entropy, SHAPE, 4),
        rows_of(model.parameters_of(state)),
        rows_of(model.buffers_of(state)),
        {name: torch.rand(rows, 3, generator=stream, dtype=torch.float64) for name in RUNNING},
        rows_of(model.parameters_of(state)),
        torch.ones(rows, dtype=torch.float64),
        torch.randint(4, (rows, records), generator=stream),
        True,
        None,
        torch.tensor(owner or range(rows)),
        statistics=statistics,
    )


def candidates(rows: int, records: int) -> tuple[Tensor, Tensor]:
    """Images that leave the box here and there, and masks."""
    stream = torch.Generator().manual_seed(2)
    images = torch.rand(rows, records, *SHAPE, generator=stream, dtype=torch.float64) * 1.5 - 0.25
    masks = torch.rand(rows, records, 3, 4, 4, generator=stream, dtype=torch.float64)
    return images, masks


TERMS: dict[str, Term] = {
    "total variation": priors.total_variation,
    "box": priors.box,
    "energy": priors.energy,
    "consistency": priors.consistency,
    "norm statistics": priors.norm_statistics,
    "mask rates": priors.mask_rates({"3": 0.3}),
    "agreement of epochs": epochs_agree(1),
    "running statistics": buffers_apart,
}


@pytest.mark.parametrize("name", TERMS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    setting = problem(3, 2, owner=[7, 7, 9])
    if name == "running statistics":  # of what a client's simulated training leaves behind
        setting = replace(setting, client=LocalPlan((2,), 0.1))
    images, masks = candidates(3, 2)

    def term(images: Tensor, masks: Tensor) -> Tensor:
        variables = Variables(images, masks={"3": masks})
        simulated = simulate(setting, variables, statistics=setting.client is None)
        return TERMS[name](setting, variables, simulated)

    varied = [images.requires_grad_(), masks.requires_grad_()]
    assert torch.autograd.gradcheck(term, varied, atol=1e-7, rtol=1e-5, fast_mode=True)
    value = term(images, masks)
    assert value.shape == (3,) and bool((value[:2] > 0).all())


def test_variation_by_hand() -> None:
    images = torch.tensor([[0.0, 1.0], [3.0, 0.0]]).view(1, 1, 1, 2, 2)
    assert priors.variation(images).tolist() == [(1 + 3) / 2 + (3 + 1) / 2]
    assert priors.variation(torch.rand(2, 3, 1, 1, 1)).tolist() == [0.0, 0.0]  # no neighbours


def test_box_and_energy_by_hand() -> None:
    variables = Variables(torch.tensor([[-1.0, 0.0, 0.5, 3.0], [0.0, 0.25, 0.5, 1.0]]).view(2, 1, 1, 2, 2))
    setting = problem(2, 1)
    assert priors.box(setting, variables, NOTHING).tolist() == [(1 + 4) / 4, 0.0]
    assert priors.energy(setting, variables, NOTHING).tolist() == [10.25 / 4, 1.3125 / 4]


def test_consistency_pulls_towards_the_mean_of_a_victims_own_rows() -> None:
    setting = problem(4, 1, owner=[5, 5, 2, 3])
    images = torch.tensor([0.0, 1.0, 0.25, 0.75]).view(4, 1, 1, 1, 1).expand(4, 1, *SHAPE).clone()
    leaf = images.requires_grad_()
    value = priors.consistency(setting, Variables(leaf), NOTHING)
    assert value.tolist() == [0.25, 0.25, 0.0, 0.0]
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    # the sum's gradient is that of a fixed consensus: 2 (x - 1/2) / 16 pixels
    assert slope[:, 0, 0, 0, 0].tolist() == [-0.0625, 0.0625, 0.0, 0.0]


@given(st.permutations(range(5)))
def test_consistency_does_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    setting, images = problem(5, 1, owner=[1, 1, 4, 4, 4]), candidates(5, 1)[0]
    rows = torch.tensor(order)
    moved = priors.consistency(setting.pick(rows), Variables(images[rows]), NOTHING)
    torch.testing.assert_close(moved, priors.consistency(setting, Variables(images), NOTHING)[rows])


def test_norm_statistics_vanish_at_their_targets_and_measure_the_distance_from_them() -> None:
    setting = problem(2, 1)
    met = Simulated({}, dict(setting.statistics), {})
    variables = Variables(torch.zeros(2, 1, *SHAPE, dtype=torch.float64))
    assert priors.norm_statistics(setting, variables, met).tolist() == [0.0, 0.0]
    mean, variance = setting.statistics["1"]
    off = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    missed = Simulated({}, {**setting.statistics, "1": (mean + off, variance - 2 * off)}, {})
    torch.testing.assert_close(
        priors.norm_statistics(setting, variables, missed), torch.tensor([15.0, 0.0], dtype=torch.float64)
    )
    nothing = priors.norm_statistics(Problem(**{**vars(setting), "statistics": {}}), variables, NOTHING)
    assert nothing.tolist() == [0.0, 0.0]
