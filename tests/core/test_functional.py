"""A network as a pure function: it computes what torch computes, and touches nothing."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedlab.tasks import FunctionalModel, initialise
from tests.conftest import batch_norm_mlp, dropout_mlp


def test_evaluation_mode_is_the_module_itself() -> None:
    net = batch_norm_mlp().eval()
    model = FunctionalModel(net, (1, 4, 4))
    x = torch.rand(5, 1, 4, 4)
    outputs, buffers = model(model.state(), x, training=False)
    torch.testing.assert_close(outputs, net(x))
    assert torch.equal(buffers["2.running_mean"], torch.zeros(12))


def test_training_mode_normalises_and_updates_as_torch_does() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3)).train()
    model = FunctionalModel(net, (1, 4, 4))
    x = torch.rand(6, 1, 4, 4)
    outputs, buffers = model(model.state(), x, training=True)
    torch.testing.assert_close(outputs, net(x))
    torch.testing.assert_close(buffers["1.running_mean"], net[1].running_mean)
    torch.testing.assert_close(buffers["1.running_var"], net[1].running_var)


def test_rows_of_weight_zero_do_not_exist_for_batch_norm() -> None:
    model = FunctionalModel(batch_norm_mlp(), (1, 4, 4))
    x, masks = torch.rand(5, 1, 4, 4), {"4": torch.ones(5, 12)}
    alone, after_alone = model(model.state(), x[:3], training=True, masks={"4": torch.ones(3, 12)})
    rows = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    padded, after_padded = model(model.state(), x, training=True, masks=masks, rows=rows)
    torch.testing.assert_close(padded[:3], alone)
    for name, value in after_alone.items():
        torch.testing.assert_close(after_padded[name], value)


def test_a_mask_keeps_and_scales() -> None:
    """Identity weights: x = (1, 2), mask (1, 0), p = 0.5 gives (1/0.5, 0)."""
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    model = FunctionalModel(net, (1, 1, 2))
    outputs, _ = model(
        {}, torch.tensor([[[[1.0, 2.0]]]]), training=True, masks={"1": torch.tensor([[1.0, 0.0]])}
    )
    assert outputs.tolist() == [[2.0, 0.0]]


def test_channel_dropout_masks_whole_channels() -> None:
    model = FunctionalModel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.5)), (1, 4, 4))
    assert model.mask_shapes == {"1": torch.Size([4, 1, 1])}


def test_masks_follow_the_rate_and_the_generator() -> None:
    model = FunctionalModel(dropout_mlp(), (1, 4, 4))
    masks = model.draw_masks(2000, torch.Generator().manual_seed(0))["3"]
    again = model.draw_masks(2000, torch.Generator().manual_seed(0))["3"]
    assert torch.equal(masks, again) and set(masks.unique().tolist()) == {0.0, 1.0}
    # 24,000 coin flips: 4 standard deviations of the mean are 4 * 0.5 / sqrt(24000) = 0.013
    assert abs(float(masks.mean()) - 0.5) < 0.013


def test_training_without_masks_is_refused() -> None:
    model = FunctionalModel(dropout_mlp(), (1, 4, 4))
    with pytest.raises(ValueError, match=r"masks of dropout layers 3"):
        model(model.state(), torch.rand(1, 1, 4, 4), training=True)


def test_the_original_module_stays_untouched() -> None:
    net = batch_norm_mlp()
    FunctionalModel(net, (1, 4, 4))
    assert isinstance(net[2], nn.BatchNorm1d) and isinstance(net[4], nn.Dropout)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.5), nn.BatchNorm1d(12, track_running_stats=False)])
def test_layers_that_cannot_be_made_explicit_are_named(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=type(layer).__name__):
        FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), layer), (1, 4, 4))


def test_initial_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = initialise(dropout_mlp, 1), initialise(dropout_mlp, 1), initialise(dropout_mlp, 2)
    assert torch.equal(torch.rand(1), expected), "the ambient generator was moved"
    assert torch.equal(a[1].weight, b[1].weight) and not torch.equal(a[1].weight, c[1].weight)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    net[2].weight = net[1].weight
    return net


def shared_layer() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)


class OneDropoutTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(16, 12), nn.Linear(12, 3), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.second(self.drop(self.first(self.drop(x.flatten(1)))))
        return logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied, "parameter 2.weight is also 1.weight"),
        (shared_layer, "is also 1"),
        (OneDropoutTwice, "dropout layer drop is used twice"),
    ],
)
def test_what_would_drift_apart_or_share_a_mask_is_refused(make: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionalModel(make(), (1, 4, 4))


def test_frozen_parameters_are_not_learned() -> None:
    net = dropout_mlp()
    net[1].weight.requires_grad_(False)
    model = FunctionalModel(net, (1, 4, 4))
    assert "1.weight" not in model.parameter_names and "1.weight" in model.buffer_names
    assert set(model.state()) == {"1.weight", "1.bias", "4.weight", "4.bias"}


def test_operations_of_linear_and_convolutional_layers_are_counted() -> None:
    """As torch's own counter counts them: 2 per multiplication and addition."""
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 2, stride=2), nn.Flatten(), nn.Linear(27, 5)
    )
    model = FunctionalModel(net, (4, 8, 8))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 4, 8, 8))
    assert model.flops == counter.get_total_flops() == 2 * (6 * 36 * 18 + 3 * 9 * 24 + 27 * 5)
