"""Knobs for networks that have none: layers exchanged in a network that is there already.

Each operation takes a fresh network and a value, and gives the network back with the layers exchanged that
the value is about; weights that stay keep their values. A layer whose place decides what it does (a
convolution's stride, a skip connection, the position of a norm) is no layer to exchange: those knobs need a
model that has them. What cannot be done is refused by the layer's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

from torch import nn

from fedlab.errors import UsageError
from fedlab.tasks import BatchNorm
from fedlab.tasks.layers import Dropout
from fedlab.tasks.models.blocks import Activation, Norm, activation_layer, choose, dropout_layer

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, Dropout)
ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
)
NORMS = (nn.modules.batchnorm._BatchNorm, BatchNorm, nn.GroupNorm, nn.LayerNorm)
WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers that multiply with weights: the first of them is what the records meet first."""
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def dropout(net: nn.Module, rate: float) -> nn.Module:
    """Every dropout layer with another rate, in [0, 1).

    Raises:
        UsageError: there is none, or the rate is out of range.
    """
    dropout_layer(rate)
    for place in _found(net, "dropout", DROPOUTS, "dropout layer"):
        place.layer.p = rate
    return net


def activation(net: nn.Module, name: str) -> nn.Module:
    """Every activation module exchanged for `name`; functions called in `forward` are not seen.

    Raises:
        UsageError: there is none.
    """
    choose("activation", name, get_args(Activation))
    for place in _found(net, "activation", ACTIVATIONS, "activation module (torch.relu(x) is none)"):
        place.put(activation_layer(name))
    return net


def norm(net: nn.Module, kind: str) -> nn.Module:
    """Every norm of (B, C, ...) exchanged for another kind of as many channels; `none` takes them out.

    Raises:
        UsageError: there is none, or a layer norm that is to become another kind: over which axis its
            channels lie cannot be told.
    """
    choose("norm", kind, get_args(Norm))
    for place in _found(net, "norm", NORMS, "norm"):
        place.put(_norm_like(place, kind))
    return net


def first_bias(net: nn.Module, wanted: bool) -> nn.Module:
    """The first layer with weights without its bias.

    Raises:
        UsageError: there is no such layer, or it is to have a bias and has none.
    """
    if not isinstance(wanted, bool):
        raise UsageError(f"first_bias = {wanted!r}; expected true or false")
    name, layer = first_layer(net)
    if wanted and layer.bias is None:
        raise UsageError(
            f"first_bias = true; expected false, or a model with that knob: the first layer {name} was made"
            " without a bias"
        )
    if not wanted:
        layer.bias = None
    return net


def pool(net: nn.Module, kind: str) -> nn.Module:
    """Every pooling layer exchanged for `max` or `avg` over the same windows.

    Raises:
        UsageError: there is none, or strides are asked for, which belong to convolutions.
    """
    if kind == "stride":
        raise UsageError(
            "pool = 'stride'; expected max or avg, or a model with that knob: the convolution in front of a"
            " pooling layer of your own network cannot be told"
        )
    choose("pool", kind, ("max", "avg"))
    for place in _found(net, "pool", POOLS, "pooling layer"):
        old = place.layer
        if getattr(old, "dilation", 1) not in (1, (1, 1), (1, 1, 1)) or getattr(old, "return_indices", False):
            raise UsageError(f"pool = {kind!r}; {place.name} is {old}, of which there is only the maximum")
        dimensions = type(old).__name__[-2]
        made = getattr(nn, f"{'Max' if kind == 'max' else 'Avg'}Pool{dimensions}d")
        place.put(made(old.kernel_size, old.stride, old.padding, ceil_mode=old.ceil_mode))
    return net


def first_layer(net: nn.Module) -> tuple[str, Any]:
    """Name and module of the first layer with weights, linear or convolutional.

    Raises:
        UsageError: there is none.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, WEIGHTS):
            return name or type(layer).__name__, layer
    raise UsageError(
        f"{type(net).__name__} has no linear or convolutional layer; expected one, as a module of the network"
    )


SURGERY: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "activation": activation,
    "dropout": dropout,
    "first_bias": first_bias,
    "norm": norm,
    "pool": pool,
}
"""What can be turned in any network, by the names that models have for it."""


class _Place:
    """A layer where it stands in its network."""

    def __init__(self, parent: nn.Module, child: str, name: str, layer: nn.Module) -> None:
        self.parent, self.child, self.name = parent, child, name
        self.layer: Any = layer

    def put(self, other: nn.Module) -> None:
        setattr(self.parent, self.child, other)


def _found(net: nn.Module, knob: str, kinds: tuple[type[nn.Module], ...], what: str) -> list[_Place]:
    places = list(_places(net, "", kinds))
    if not places:
        raise UsageError(
            f"{type(net).__name__} has no {what}, so that its knob {knob!r} cannot be turned; put one in, or"
            " choose a model with that knob"
        )
    return places


def _places(net: nn.Module, prefix: str, kinds: tuple[type[nn.Module], ...]) -> Iterator[_Place]:
    for child, layer in net.named_children():
        name = f"{prefix}{child}"
        if isinstance(layer, kinds):
            yield _Place(net, child, name, layer)
        else:
            yield from _places(layer, f"{name}.", kinds)


def _norm_like(place: _Place, kind: str) -> nn.Module:
    old = place.layer
    if kind == "none":
        return nn.Identity()
    if isinstance(old, nn.LayerNorm):
        if kind == "layer":
            return nn.LayerNorm(old.normalized_shape, eps=old.eps)
        raise UsageError(
            f"norm = {kind!r}; {place.name} is a layer norm over the last {len(old.normalized_shape)} axes,"
            " which need not be channels; expected layer or none"
        )
    counts = ("num_channels", "num_features", "features")
    channels = next(int(getattr(old, count)) for count in counts if hasattr(old, count))
    if kind != "batch":
        return nn.GroupNorm(1 if kind == "layer" else math.gcd(channels, 8), channels)
    if isinstance(old, nn.GroupNorm):
        return BatchNorm(channels)  # fedlab's own takes records of any number of axes
    same: nn.Module = type(old)(channels)
    return same
