"""A small convolutional network: 3x3 convolutions that halve the image, then one hidden layer.

The defaults suit federated training on a CPU: strides cost a quarter of pooling, and group norm
learns in a third of the rounds that no norm needs, without the statistics of batch norm.

Knobs and leaks:

- `pool="max"` and `"avg"` throw values away; with `"stride"` and an injective activation
  (leaky_relu, sigmoid, tanh) and enough `width` every layer can be undone by least squares (Zhu
  and Blaschko, "R-GAP", ICLR 2021, https://arxiv.org/abs/2010.07733).
- `head="flatten"` feeds all features into a linear layer with a bias, whose input follows in
  closed form at one example per step; `"average"` leaves only the mean of each map.
- `norm="batch"` mixes the examples of a batch in training mode, and its running statistics tell the
  server about the data; `group` and `layer` do neither.
- `dropout` (before the hidden layer and before the classifier) must be guessed by attacks that
  optimise. `first_bias` adds the summed cotangent of the first maps to what is seen.
- A smaller `width` and a larger `depth` leave an optimising attack fewer equations per pixel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fedlab.errors import UsageError
from fedlab.tasks.models.blocks import (
    Activation,
    GlobalAverage,
    Norm,
    activation_layer,
    at_least,
    choose,
    dropout_layer,
    norm_layer,
)


def convnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 16,
    depth: int = 2,
    hidden: int = 32,
    pool: Literal["max", "avg", "stride"] = "stride",
    head: Literal["flatten", "average"] = "flatten",
    activation: Activation = "relu",
    norm: Norm = "group",
    dropout: float = 0.0,
    first_bias: bool = True,
) -> nn.Module:
    """`depth` times convolution, norm, activation, pool; then a hidden layer and a classifier.

    Args:
        input_shape: (C, H, W) of one image.
        classes: number of logits.
        width: channels of the first convolution; each further one has twice as many.
        depth: number of convolutions; each halves height and width.
        hidden: units of the hidden layer; 0 for none.
        pool: max, avg, or stride (the convolution itself takes every second pixel).
        head: flatten (all features) or average (the mean of each map).
        activation: relu, leaky_relu, gelu, sigmoid or tanh.
        norm: none, batch, group or layer.
        dropout: rate before the hidden layer and before the classifier.
        first_bias: whether the first convolution has a bias.

    Raises:
        UsageError: a knob out of range, or an image too small for the depth.
    """
    channels, height, breadth = input_shape
    choose("pool", pool, ("max", "avg", "stride"))
    choose("head", head, ("flatten", "average"))
    if at_least("depth", depth) > min(height, breadth).bit_length() - 1:
        raise UsageError(
            f"depth = {depth} halves {height}x{breadth} images below one pixel; expected at most"
            f" {min(height, breadth).bit_length() - 1}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, depth + 1):
        maps = at_least("width", width) * 2 ** (number - 1)
        stride, bias = 2 if pool == "stride" else 1, first_bias or number > 1
        layers[f"conv{number}"] = nn.Conv2d(channels, maps, 3, stride, padding=1, bias=bias)
        layers[f"norm{number}"] = norm_layer(norm, maps)
        layers[f"activation{number}"] = activation_layer(activation)
        if pool != "stride":
            layers[f"pool{number}"] = nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2)
        height, breadth = ((side + 1) // 2 if pool == "stride" else side // 2 for side in (height, breadth))
        channels = maps
    features = channels if head == "average" else channels * height * breadth
    layers["flatten"] = GlobalAverage() if head == "average" else nn.Flatten()
    layers["dropout"] = dropout_layer(dropout)
    if at_least("hidden", hidden, 0):
        layers["linear"] = nn.Linear(features, hidden)
        layers["activation"] = activation_layer(activation)
        layers["head_dropout"] = dropout_layer(dropout)
        features = hidden
    layers["head"] = nn.Linear(features, classes)
    return nn.Sequential(layers)
