"""Every network on every image size: shapes, both modes, stacked clients, second derivatives, knobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise
from fedlab.tasks.models.convnet import convnet
from fedlab.tasks.models.lenet import lenet
from fedlab.tasks.models.mlp import mlp
from fedlab.tasks.models.resnet import resnet
from fedlab.tasks.models.vit import VisionTransformer, sine_positions, vit

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
CLASSES = 5
NETWORKS: list[tuple[Callable[..., nn.Module], dict[str, Any]]] = [
    (mlp, {"width": 12}),
    (mlp, {"width": [9, 7, 5], "norm": "layer", "activation": "gelu", "dropout": 0.5}),
    (mlp, {"width": 12, "norm": "batch", "activation": "tanh", "dropout": 0.3, "first_bias": False}),
    (lenet, {}),
    (lenet, {"init": "torch", "activation": "leaky_relu", "dropout": 0.5, "width": 4}),
    (convnet, {"width": 4, "dropout": 0.5, "pool": "max", "norm": "none"}),
    (convnet, {"width": 4, "depth": 3, "pool": "avg", "norm": "group", "head": "average", "hidden": 0}),
    (convnet, {"width": 4, "pool": "stride", "norm": "batch", "activation": "sigmoid", "first_bias": False}),
    (resnet, {"width": 4}),
    (resnet, {"width": 4, "norm": "none", "skip": False, "order": "post", "head": "flatten", "dropout": 0.2}),
    (resnet, {"width": 4, "norm": "group", "order": "pre", "stages": 2, "depth": 2, "dropout": 0.2}),
    (resnet, {"width": 4, "norm": "layer", "order": "pre", "skip": False, "activation": "leaky_relu"}),
    (vit, {"dim": 16, "mlp_dim": 8, "dropout": 0.5}),
    (vit, {"dim": 8, "mlp_dim": 8, "heads": 2, "depth": 1, "positions": "fixed", "activation": "relu"}),
    (mlp, {"width": [9, 9, 7], "norm": "group", "skip": True, "activation": "tanh", "dropout": 0.5}),
    (lenet, {"width": 4, "norm": "batch", "pool": "avg", "activation": "tanh", "init": "torch"}),
    (resnet, {"width": 4, "norm": "group", "stages": 2, "pool": "max", "activation": "leaky_relu"}),
    (vit, {"dim": 8, "mlp_dim": 8, "heads": 2, "depth": 1, "order": "post", "dropout": 0.2}),
    (vit, {"dim": 8, "mlp_dim": 8, "heads": 2, "depth": 1, "norm": "none", "skip": False}),
]
every_network = pytest.mark.parametrize(
    ("factory", "knobs"), NETWORKS, ids=[f"{f.__name__}-{i}" for i, (f, _) in enumerate(NETWORKS)]
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["digits", "grey28", "colour32"])


def model(
    factory: Callable[..., nn.Module], shape: tuple[int, ...], seed: int = 0, **knobs: Any
) -> FunctionalModel:
    return FunctionalModel(initialise(lambda: factory(shape, CLASSES, **knobs), seed), shape)


def images(shape: tuple[int, ...], *batch: int, seed: int = 1) -> Tensor:
    return torch.rand(*batch, *shape, generator=torch.Generator().manual_seed(seed))


def count(factory: Callable[..., nn.Module], shape: tuple[int, ...], classes: int, **knobs: Any) -> int:
    return sum(parameter.numel() for parameter in factory(shape, classes, **knobs).parameters())


@every_shape
@every_network
def test_logits_in_both_modes_and_the_rate_of_every_dropout_layer(
    factory: Callable[..., nn.Module], knobs: dict[str, Any], shape: tuple[int, ...]
) -> None:
    net = model(factory, shape, **knobs)
    state, x = net.state(), images(shape, 3)
    masks = net.draw_masks(3, torch.Generator().manual_seed(2))
    assert set(net.dropout_rates.values()) == ({knobs["dropout"]} if "dropout" in knobs else set())
    evaluated, same = net(state, x, training=False)
    trained, _ = net(state, x, training=True, masks=masks)
    assert evaluated.shape == trained.shape == (3, CLASSES)
    assert torch.isfinite(evaluated).all() and torch.isfinite(trained).all()
    assert all(torch.equal(same[name], state[name]) for name in same)  # evaluation moves no statistics
    alone = torch.cat([net(state, image[None], training=False)[0] for image in x])
    torch.testing.assert_close(alone, evaluated, rtol=1e-4, atol=1e-5)


@every_shape
@every_network
def test_three_stacked_clients_with_their_own_masks_equal_one_by_one(
    factory: Callable[..., nn.Module], knobs: dict[str, Any], shape: tuple[int, ...]
) -> None:
    nets = [model(factory, shape, seed, **knobs) for seed in range(3)]
    net, x, y = nets[0], images(shape, 3, 2), torch.tensor([[0, 1], [2, 3], [4, 0]])
    # In float64: batch norm over two examples magnifies rounding by as much as its masks make them alike.
    states = [{name: value.double() for name, value in each.state().items()} for each in nets]
    masks = [net.draw_masks(2, torch.Generator().manual_seed(seed)) for seed in range(3)]

    def gradient(state: State, masks: State, x: Tensor, y: Tensor) -> tuple[Tensor, State]:
        buffers = net.buffers_of(state)

        def loss(parameters: State) -> Tensor:
            logits, _ = net(parameters | buffers, x, training=True, masks=masks)
            return cross_entropy(logits, y).mean()

        outputs, _ = net(state, x, training=True, masks=masks)
        return outputs, grad(loss)(net.parameters_of(state))

    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    stacked_masks = {name: torch.stack([mask[name] for mask in masks]) for name in masks[0]}
    together, gradients = vmap(gradient)(stacked, stacked_masks, x, y)
    for client in range(3):
        outputs, single = gradient(states[client], masks[client], x[client], y[client])
        torch.testing.assert_close(together[client], outputs, rtol=1e-9, atol=1e-10)
        for name, value in single.items():
            torch.testing.assert_close(gradients[name][client], value, rtol=1e-9, atol=1e-10)


@every_network
def test_gradient_matching_differentiates_twice_under_vmap(
    factory: Callable[..., nn.Module], knobs: dict[str, Any]
) -> None:
    """What an attack does: the derivative, by the image, of a function of the parameters' gradient."""
    shape = (1, 8, 8)
    net = model(factory, shape, **knobs)
    state, y = net.state(), torch.tensor([1, 2])
    masks = net.draw_masks(2, torch.Generator().manual_seed(0))
    buffers = net.buffers_of(state)

    def match(x: Tensor) -> Tensor:
        def loss(parameters: State) -> Tensor:
            logits, _ = net(parameters | buffers, x, training=True, masks=masks)
            return cross_entropy(logits, y).mean()

        return torch.stack([g.square().sum() for g in grad(loss)(net.parameters_of(state)).values()]).sum()

    x = images(shape, 3, 2)
    slopes = vmap(grad(match))(x)
    assert slopes.shape == x.shape
    assert torch.isfinite(slopes).all() and (slopes.flatten(1).abs().sum(1) > 0).all()
    torch.testing.assert_close(slopes[1], grad(match)(x[1]), rtol=1e-3, atol=1e-5)


def test_parameter_counts_by_hand() -> None:
    # mlp on digits: 64 to 256, 256 to 256, 256 to 10, each with biases.
    assert count(mlp, (1, 8, 8), 10) == 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10 == 85_002
    assert count(mlp, (1, 8, 8), 10, first_bias=False) == 85_002 - 256
    assert count(mlp, (1, 8, 8), 10, width=[32]) == 64 * 32 + 32 + 32 * 10 + 10
    assert count(mlp, (1, 8, 8), 10, norm="layer") == 85_002 + 2 * 2 * 256
    # convnet on 28x28: 9 taps, 1 to 16 to 32 maps; 7 * 7 * 32 features, 32 hidden units.
    expected = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (7 * 7 * 32 * 32 + 32) + (32 * 10 + 10)
    assert count(convnet, (1, 28, 28), 10, norm="none") == expected == 55_338
    assert count(convnet, (1, 28, 28), 10) == expected + 2 * (16 + 32)  # a scale and a shift per map
    # lenet on 32x32x3: 25 taps, 3 to 12 to 12 to 12 maps, 8 * 8 * 12 features (the paper's 768).
    assert count(lenet, (3, 32, 32), 10) == (75 * 12 + 12) + 2 * (300 * 12 + 12) + 768 * 10 + 10
    # vit on 32x32x3: 64 patches of 48 values; fixed positions have no parameters.
    assert count(vit, (3, 32, 32), 10) - count(vit, (3, 32, 32), 10, positions="fixed") == 64 * 64


def test_each_first_layer_may_lose_its_bias() -> None:
    for factory, first in (
        (mlp, "linear1"),
        (lenet, "conv1"),
        (convnet, "conv1"),
        (resnet, "stem"),
        (vit, "embed"),
    ):
        for bias in (True, False):
            names = dict(factory((1, 8, 8), 10, first_bias=bias).named_parameters())
            assert (f"{first}.bias" in names) == bias
            assert next(name for name in names if name != "positions") == f"{first}.weight"


def test_attention_equals_torchs_multi_head_attention() -> None:
    from fedlab.tasks.models.vit import Attention

    torch.manual_seed(0)
    ours, reference = Attention(12, 3, 0.0), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(ours.qkv.weight)
        reference.in_proj_bias.copy_(ours.qkv.bias)
        reference.out_proj.load_state_dict(ours.project.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), reference(x, x, x, need_weights=False)[0])


def test_patches_run_row_by_row_with_channels_first() -> None:
    net = vit((2, 4, 6), 3, patch=2, dim=8, depth=1, heads=1)
    assert isinstance(net, VisionTransformer)
    x = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    patches = net.patches(x)
    assert patches.shape == (1, 6, 8)
    torch.testing.assert_close(patches[0, 4], x[0, :, 2:4, 2:4].flatten())  # second row, second column


def test_fixed_positions_are_distinct_and_start_with_the_row() -> None:
    table = sine_positions(3, 4, 8)
    assert table.shape == (12, 8) and len(torch.unique(table, dim=0)) == 12
    # Token 5 is row 1, column 1; the frequencies of dim 8 are 1 and 10000^(-1/2) = 0.01.
    angles = torch.tensor([1.0, 0.01])
    torch.testing.assert_close(table[5], torch.cat([angles.sin(), angles.cos()] * 2))


def test_a_pre_activation_network_without_skips_loses_the_input_path() -> None:
    """With all block convolutions at zero, the output depends on the image only through the skips."""
    for skip in (True, False):
        net = resnet((1, 8, 8), 4, skip=skip, order="pre", norm="none", stages=1)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.startswith("block"):
                    parameter.zero_()
        outputs = net(images((1, 8, 8), 2))
        assert torch.equal(outputs[0], outputs[1]) != skip


def test_a_skip_hands_on_what_a_layer_was_given() -> None:
    """With all hidden layers behind the first at zero, the output depends on the image only through them."""
    for skip in (True, False):
        net = mlp((1, 2, 2), 4, width=4, depth=3, skip=skip, activation="tanh")
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "linear2" in name or "linear3" in name:
                    parameter.zero_()
        outputs = net(images((1, 2, 2), 2))
        assert torch.equal(outputs[0], outputs[1]) != skip


def test_pooling_and_strides_give_maps_of_one_size() -> None:
    """Of odd sides too: 7 becomes 4, then 2, in each way of halving."""
    for factory in (lenet, resnet):
        sizes = [count(factory, (1, 7, 7), 3, pool=pool) for pool in ("stride", "max", "avg")]
        assert len(set(sizes)) == 1
        x = images((1, 7, 7), 2)
        assert all(factory((1, 7, 7), 3, pool=pool)(x).shape == (2, 3) for pool in ("max", "avg"))


def test_a_norm_stands_before_its_branch_or_behind_the_sum() -> None:
    """With branches at zero a layer is the identity (pre), or normalises its tokens twice (post)."""
    x = images((1, 4, 4), 2)
    for order in ("pre", "post"):
        net = vit((1, 4, 4), 3, patch=2, dim=8, depth=1, heads=1, order=order)
        assert isinstance(net, VisionTransformer)
        with torch.no_grad():
            for layer in (net.layers[0].attention.project, net.layers[0].linear2):
                layer.weight.zero_()
                layer.bias.zero_()
            tokens = net.embed(net.patches(x)) + net.positions
            plain = torch.nn.functional.layer_norm
            expected = tokens if order == "pre" else plain(plain(tokens, (8,)), (8,))
            torch.testing.assert_close(net.layers(tokens), expected)


@pytest.mark.parametrize(
    ("factory", "knobs", "words"),
    [
        (mlp, {"activation": "relo"}, "activation = 'relo'; expected one of relu, leaky_relu.*mean \"relu\""),
        (mlp, {"norm": "instance"}, "none, batch, group, layer"),
        (lenet, {"norm": "instance"}, "none, batch, group, layer"),
        (lenet, {"pool": "mean"}, "max, avg, stride"),
        (resnet, {"pool": "mean"}, "max, avg, stride"),
        (vit, {"norm": "batch"}, "layer, none"),
        (vit, {"order": "middle"}, "pre, post"),
        (mlp, {"width": 0}, "width = 0; expected a whole number of at least 1"),
        (mlp, {"width": []}, "at least one hidden layer"),
        (mlp, {"depth": 0}, "depth = 0"),
        (mlp, {"dropout": 1.0}, "dropout = 1.0; expected a rate of at least 0 and below 1"),
        (mlp, {"dropout": float("nan")}, "dropout = nan"),
        (lenet, {"init": "dlg"}, "wide, torch"),
        (convnet, {"pool": "mean"}, "max, avg, stride"),
        (convnet, {"head": "cls"}, "flatten, average"),
        (convnet, {"norm": "instance"}, "none, batch, group, layer"),
        (convnet, {"depth": 4}, "halves 8x8 images below one pixel; expected at most 3"),
        (resnet, {"order": "middle"}, "post, pre"),
        (resnet, {"width": -1}, "width = -1"),
        (vit, {"positions": "none"}, "learned, fixed"),
        (vit, {"patch": 3}, "does not divide images of 8x8"),
        (vit, {"dim": 30}, "no multiple of heads = 4"),
        (vit, {"dim": 6, "heads": 2, "positions": "fixed"}, "multiple of 4"),
    ],
)
def test_a_wrong_knob_names_the_choices(
    factory: Callable[..., nn.Module], knobs: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        factory((1, 8, 8), 10, **knobs)
