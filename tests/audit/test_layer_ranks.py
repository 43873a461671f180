"""Ranks of layers, on networks small enough to count by hand."""

from __future__ import annotations

import torch
from torch import nn

from fedlab.audit import Victim
from fedlab.audit.layer_ranks import LayerRank, layer_ranks
from fedlab.tasks import FunctionalModel, cross_entropy, initialise


def ranks(
    net: nn.Module, shape: tuple[int, int, int], batches: tuple[int, ...] = (1, 2, 4)
) -> list[LayerRank]:
    model = FunctionalModel(initialise(lambda: net, 0), shape)
    victim = Victim(model, cross_entropy, shape, 3)
    stream = torch.Generator().manual_seed(0)
    return layer_ranks(victim, model.state(), batches, training=True, generator=stream)


def test_linear_layers_have_rank_b_until_their_width_ends_it() -> None:
    """6 pixels, 3 hidden units, 3 classes: the softmax gradient of 3 classes has rank 2 at most."""
    first, head = ranks(nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3)), (1, 2, 3))
    assert (first.inputs, first.outputs, first.places, first.bias) == (6, 3, 1, True)
    assert first.forward == 3 and first.passes is False
    assert head.gradient == {1: 1, 2: 2, 4: 2} and head.separates == 2 and head.forward == 3 and head.passes
    assert first.gradient[1] == 1 and first.gradient[2] == 2 and first.separates >= 2
    assert "the output fixes 3 of 6 inputs" in first.reading and "its input at 1 record" in first.reading


def test_a_convolution_uses_its_weights_at_many_places() -> None:
    """1x1 kernels, 2 to 2 channels on 2x2 pixels: 8 numbers in and out, 4 places; to 1 channel: rank 4."""
    square = nn.Conv2d(2, 2, 1, bias=False)
    narrow = nn.Conv2d(2, 1, 1)
    net = nn.Sequential(square, nn.Tanh(), narrow, nn.Flatten(), nn.Linear(4, 3))
    first, second, _ = ranks(net, (2, 2, 2))
    assert (first.inputs, first.outputs, first.places, first.forward) == (8, 8, 4, 8) and first.passes
    assert (second.outputs, second.forward, second.passes, second.separates) == (4, 4, False, 0)
    assert "mixes 4 places" in second.reading and "without" not in second.reading


def test_pooled_kernels_that_ignore_a_pixel_lose_rank() -> None:
    """Stride 2 with 1x1 kernels sees 1 of 4 pixels: rank 1 of 4."""
    skipping = nn.Conv2d(1, 4, 1, stride=2, bias=False)
    first, _ = ranks(nn.Sequential(skipping, nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2))
    assert first.forward == 1 and first.outputs == 4 and first.passes is False
    assert "the output fixes 1 of 4 inputs" in first.reading


def test_layers_too_large_to_compute_say_so() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(40 * 40, 1700), nn.ReLU(), nn.Linear(1700, 3))
    first, _ = ranks(net, (1, 40, 40), (1,))
    assert first.forward is None and first.passes is None and "too large to say" in first.reading


def test_a_bias_adds_no_rank() -> None:
    """Two channels that count three to one: 4 places, rank 4 of 8, whatever adding the bias rounds."""
    mixing = nn.Conv2d(2, 4, 1)
    with torch.no_grad():
        mixing.weight[:, 0] = (256 * mixing.weight[:, 0]).round() / 256  # so that three times it is exact
        mixing.weight[:, 1] = 3.0 * mixing.weight[:, 0]
    first, _ = ranks(nn.Sequential(mixing, nn.Flatten(), nn.Linear(16, 3)), (2, 2, 2))
    assert first.forward == 4 and first.passes is False
