"""The strided LeNet of Deep Leakage from Gradients.

Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935.
Three 5x5 convolutions of stride 2, 2, 1 with 12 channels and a sigmoid behind each, then one
linear classifier: twice differentiable everywhere, nothing pooled away, which is what that attack
asks for. All parameters start from U(-0.5, 0.5), as in the paper's code; with torch's own start
sigmoids are so flat that plain SGD does not get off the ground. Deviations: any input size and
number of classes, a dropout layer before the classifier, and where they are asked for norms in front of the
activations and pooling instead of strides.

Knobs and leaks:

- `activation="sigmoid"` or `tanh` keeps second derivatives alive; `relu` has none and discards.
- The classifier has a bias, so at one example per step its input, the last feature map, follows in
  closed form; with an injective activation (sigmoid, tanh, leaky_relu) and maps no smaller than
  their inputs (`width` 12 against colour images is just that) the layers below can be peeled off by
  least squares (Zhu and Blaschko, "R-GAP", ICLR 2021, https://arxiv.org/abs/2010.07733).
- `pool="max"` and `"avg"` throw values away, which strides do not; `norm="batch"` mixes the examples of a
  batch in training mode, and its statistics reach the server.
- `dropout` sits between the features and the classifier, and its mask must be guessed by attacks
  that optimise; `first_bias` adds the summed cotangent of the first maps to what is seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fedlab.tasks.models.blocks import (
    Activation,
    Norm,
    Pool,
    activation_layer,
    at_least,
    choose,
    dropout_layer,
    norm_layer,
    pool_layer,
)


def lenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 12,
    activation: Activation = "sigmoid",
    dropout: float = 0.0,
    init: Literal["wide", "torch"] = "wide",
    first_bias: bool = True,
    norm: Norm = "none",
    pool: Pool = "stride",
) -> nn.Module:
    """Three strided convolutions and a linear classifier.

    Args:
        input_shape: (C, H, W) of one image.
        classes: number of logits.
        width: channels of each convolution.
        activation: relu, leaky_relu, gelu, sigmoid or tanh.
        dropout: rate before the classifier.
        init: wide (U(-0.5, 0.5) for every parameter), or torch (its defaults: for relu, leaky_relu, gelu).
        first_bias: whether the first convolution has a bias.
        norm: none, batch, group or layer, before the activation.
        pool: max, avg, or stride (the first two convolutions themselves take every second pixel).

    Raises:
        UsageError: a knob out of range.
    """
    channels, height, breadth = input_shape
    at_least("width", width)
    choose("pool", pool, ("max", "avg", "stride"))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, stride in enumerate((2, 2, 1), start=1):
        bias = first_bias or number > 1
        step = stride if pool == "stride" else 1
        layers[f"conv{number}"] = nn.Conv2d(channels, width, 5, step, padding=2, bias=bias)
        if choose("norm", norm, ("none", "batch", "group", "layer")) != "none":
            layers[f"norm{number}"] = norm_layer(norm, width)
        layers[f"activation{number}"] = activation_layer(activation)
        if step != stride:
            layers[f"pool{number}"] = pool_layer(pool)
        height, breadth = -(-height // stride), -(-breadth // stride)
        channels = width
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = dropout_layer(dropout)
    layers["head"] = nn.Linear(width * height * breadth, classes)
    net = nn.Sequential(layers)
    if choose("init", init, ("wide", "torch")) == "wide":
        for layer in net:
            for parameter in layer.parameters() if isinstance(layer, nn.Conv2d | nn.Linear) else ():
                nn.init.uniform_(parameter, -0.5, 0.5)
    return net
