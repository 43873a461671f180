"""What the networks share: activations, normalisation, and knobs whose errors name the choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from fedlab.errors import UsageError, did_you_mean

Activation = Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh"]
Norm = Literal["none", "batch", "group", "layer"]
Pool = Literal["max", "avg", "stride"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def choose(knob: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        UsageError: it is not; the message names the choices.
    """
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{knob} = {value!r}; expected one of {', '.join(choices)}.{hint}")
    return value


def at_least(knob: str, value: int, least: int = 1) -> int:
    """`value`, if it is a whole number of at least `least`.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{knob} = {value!r}; expected a whole number of at least {least}")
    return value


def dropout_layer(rate: float) -> nn.Dropout:
    """A dropout layer that drops each value with probability `rate`.

    Raises:
        UsageError: the rate is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise UsageError(f"dropout = {rate!r}; expected a rate of at least 0 and below 1")
    return nn.Dropout(rate)


def activation_layer(name: str) -> nn.Module:
    """The activation called `name` (`leaky_relu` has slope 0.2 below zero)."""
    return _ACTIVATIONS[choose("activation", name, get_args(Activation))]()


def norm_layer(name: str, channels: int) -> nn.Module:
    """Normalisation of (B, channels, H, W) maps.

    `batch` mixes the examples of a batch; `group` (at most 8 groups) and `layer` (one group) see
    each example alone.
    """
    choose("norm", name, get_args(Norm))
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(channels, 8), channels)
    return nn.GroupNorm(1, channels) if name == "layer" else nn.Identity()


def unit_norm(name: str, units: int) -> nn.Module:
    """Normalisation of (B, units), by the same names."""
    choose("norm", name, get_args(Norm))
    if name == "batch":
        return nn.BatchNorm1d(units)
    if name == "group":
        return nn.GroupNorm(math.gcd(units, 8), units)
    return nn.LayerNorm(units) if name == "layer" else nn.Identity()


def pool_layer(kind: str) -> nn.Module:
    """Maximum or mean over 2x2 pixels; an odd last row or column is a window of its own."""
    return nn.MaxPool2d(2, ceil_mode=True) if kind == "max" else nn.AvgPool2d(2, ceil_mode=True)


class Skip(nn.Sequential):
    """Layers and a way around them: x to x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x
        for layer in self:
            out = layer(out)
        return x + out


class GlobalAverage(nn.Module):
    """The mean over all pixels: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))
