"""Soteria's scores against autograd, what it cuts, and networks that it cannot defend."""

from __future__ import annotations

import pickle

import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.updates.soteria import Soteria, SoteriaRule, sensitivity, spared
from torch import nn

from fedlab.audit.disclosure import Disclosure
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Aux, Batch
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(x: torch.Tensor, rows: torch.Tensor) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), rows, {}, {}, torch.tensor(2.0))


def test_scores_are_the_papers() -> None:
    """Σ over records of ‖∂r_i/∂x‖ / |r_i|, one backward pass per unit and record as in the authors' code."""
    torch.manual_seed(0)
    model = FunctionalModel(network(), (1, 2, 2))
    x = torch.rand(3, 1, 2, 2)
    rows = torch.tensor([1.0, 1.0, 0.0])  # the last is padding
    found = sensitivity(model, "3", model.parameters_of(model.state()), batch(x, rows))
    expected = torch.zeros(6)
    for image in x[:2]:
        leaf = image.clone().requires_grad_()
        features = torch.tanh(model.net[1](leaf.flatten()))
        for unit in range(6):
            (slope,) = torch.autograd.grad(features[unit], leaf, retain_graph=True)
            expected[unit] += (slope.norm() / features[unit].abs()).detach()
    torch.testing.assert_close(found, expected)


def test_the_lowest_finite_scores_are_cut() -> None:
    inf = float("inf")
    assert spared(torch.tensor([3.0, 1.0, inf, 2.0]), 0.5).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert spared(torch.tensor([inf, 1.0, inf, inf]), 0.5).tolist() == [1.0, 0.0, 1.0, 1.0]
    assert spared(torch.tensor([3.0, 1.0]), 0.4).tolist() == [1.0, 1.0]


def test_a_step_leaves_the_cut_columns_alone() -> None:
    torch.manual_seed(0)
    model = FunctionalModel(network(), (1, 2, 2))
    rule = Soteria(ratio=0.5).local_rule(LocalRule(), Federation((2,), 1, ClientConfig()))
    rule.meet(model)
    parameters = model.parameters_of(model.state())
    whole = {name: torch.ones_like(value) for name, value in parameters.items()}

    def slopes(values: State, part: Batch) -> tuple[State, Aux]:
        return whole, Aux(torch.zeros(()), {})

    one = batch(torch.rand(2, 1, 2, 2), torch.ones(2))
    found, _, _ = rule.direction(slopes, parameters, one, {})
    kept = spared(sensitivity(model, "3", parameters, one), 0.5)
    assert int(kept.sum()) == 3 and torch.equal(found["3.weight"], kept.expand(3, 6))
    assert all(torch.equal(found[name], whole[name]) for name in whole if name != "3.weight")
    assert isinstance(rule, SoteriaRule)
    assert pickle.loads(pickle.dumps(rule))._model is None  # workers build their own


def test_what_is_told_and_which_layer() -> None:
    model = FunctionalModel(network(), (1, 2, 2))
    assert Soteria().disclosure(model) == Disclosure(distorted=frozenset({"3.weight"}))
    assert Soteria(layer="1").disclosure(model) == Disclosure(distorted=frozenset({"1.weight"}))
    assert Soteria(ratio=0.0).disclosure(model) == Disclosure()


def test_networks_that_it_cannot_defend_are_refused_before_training() -> None:
    with pytest.raises(UsageError, match=r"layer = 'fc'; expected a linear layer of the network: 1, 3"):
        Soteria(layer="fc").network(network)()
    with pytest.raises(UsageError, match=r'mixes the records of a batch; set task\.model\.norm = "group"'):
        Soteria().network(lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3)))()
    with pytest.raises(UsageError, match=r"soteria ratio = 1\.0; expected at least 0 and below 1"):
        Soteria(ratio=1.0)


@pytest.mark.parametrize("first", ["soteria", "dp-sgd"])
def test_noise_on_gradients_does_not_cover_what_is_pruned(first: str) -> None:
    """Which columns of the update are zero depends on the records, past any noise."""
    federation = Federation([8], 1, ClientConfig(batch_size=4, sampling="poisson"))
    layers = [Soteria(), DPSGD(noise_multiplier=1.0)]
    rule = LocalRule()
    with pytest.raises(UsageError, match="leave one of"):
        for layer in layers if first == "soteria" else layers[::-1]:
            rule = layer.local_rule(rule, federation)
