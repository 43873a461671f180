"""Batch norm under DP-SGD: refused with its name, or replaced on request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from opacus.validators import ModuleValidator
from torch import nn

from fedlab.clients import Federation, LocalRule
from fedlab.clients.loop import LocalTraining
from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger
from fedlab.tasks import BatchNorm, Dataset, FunctionalModel, cross_entropy
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.resnet import resnet
from tests.conftest import batch_norm_mlp
from tests.defenses.test_dp_sgd import CONFIG, jobs_for

FIX = DPSGD(noise_multiplier=1.0, fix=True)


def in_place() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(96, 3),
        nn.LeakyReLU(0.1, inplace=True),
    )


def test_a_refusal_names_the_layers_the_reason_and_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"batch norm \(1\): .* mix records.*set fix = true"):
        DPSGD(noise_multiplier=1.0).network(in_place)()


@pytest.mark.parametrize("channels", [1, 3, 6, 16, 30, 32, 48, 100])
def test_maps_get_the_groups_that_opacus_gives_them(channels: int) -> None:
    """Also where 32 does not divide the channels."""
    net = FIX.network(lambda: nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels)))()
    theirs = ModuleValidator.fix(nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels)))
    assert isinstance(net[1], nn.GroupNorm) and isinstance(theirs[1], nn.GroupNorm)
    assert (net[1].num_groups, net[1].num_channels) == (theirs[1].num_groups, channels)
    assert bool(torch.isfinite(net(torch.rand(2, 1, 8, 8))).all())


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(16), lambda: BatchNorm(16)])
def test_plain_features_are_normalised_together_and_not_away(layer: Callable[[], nn.Module]) -> None:
    """Opacus' 16 groups of one feature each would make every output zero."""
    net = FIX.network(lambda: nn.Sequential(nn.Linear(4, 16), layer()))()
    assert isinstance(net[1], nn.GroupNorm) and net[1].num_groups == 1
    assert float(net(torch.rand(3, 4)).detach().std()) > 0.5


def test_a_network_that_is_one_batch_norm_and_one_without_any() -> None:
    assert isinstance(FIX.network(lambda: nn.BatchNorm2d(4))(), nn.GroupNorm)
    plain = nn.Linear(4, 2)
    assert FIX.network(lambda: plain)() is plain


@pytest.mark.parametrize(
    "factory", [lambda: convnet((1, 8, 8), 3, norm="batch"), lambda: resnet((1, 8, 8), 3, norm="batch")]
)
def test_shipped_models_are_fixed_as_a_whole(factory: Callable[[], nn.Module]) -> None:
    fixed = FunctionalModel(FIX.network(factory)(), (1, 8, 8))
    assert not fixed.has_batch_norm and not fixed.buffer_names
    assert any(isinstance(layer, nn.GroupNorm) for layer in fixed.net.modules())


@pytest.mark.parametrize("make", [in_place, batch_norm_mlp])
def test_a_fixed_network_trains_as_one_written_with_group_norm(
    small_data: Dataset, make: Callable[[], nn.Module]
) -> None:
    """With activations in place, too: nothing writes over what a gradient still needs."""
    rule = FIX.local_rule(LocalRule(), Federation((20,) * 4, 10, CONFIG))
    net = FIX.network(make)()
    assert not any(getattr(layer, "inplace", False) for layer in net.modules())
    model = FunctionalModel(net, small_data.shape)
    training = LocalTraining(model, cross_entropy, small_data, rule, CONFIG, 3)
    for found in training(jobs_for(training, 4)):
        assert all(bool(torch.isfinite(value).all()) for value in found.state.values())


def test_a_batch_norm_that_nobody_can_replace_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"cannot replace the batch norm 1 \(LazyBatchNorm2d\)"):
        FIX.network(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.LazyBatchNorm2d()))()


def test_the_guarantee_says_that_batch_norm_was_replaced() -> None:
    ledger = Ledger([Event(0, 1, 1.0, 0.1, 1)])
    told = [DPSGD(noise_multiplier=1.0, fix=fix).guarantee(ledger) for fix in (False, True)]
    texts = [" ".join(one.text for one in guarantee.assumptions) for guarantee in told if guarantee]
    assert "(no batch norm)" in texts[0] and "every batch norm was replaced by group norm" in texts[1]
