"""The strided LeNet of Deep Leakage from Gradients.

Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935.
Three 5x5 convolutions of stride 2, 2, 1 with 12 channels and a sigmoid behind each, then one
linear classifier: twice differentiable everywhere, nothing pooled away, which is what that attack
asks for. All parameters start from U(-0.5, 0.5), as in the paper's code; with torch's own start
sigmoids are so flat that plain SGD does not get off the ground. Deviations: any input size and
number of classes, a dropout layer before the classifier.

Knobs and leaks:

- `activation="sigmoid"` or `tanh` keeps second derivatives alive; `relu` has none and discards.
- The classifier has a bias, so at one example per step its input, the last feature map, follows in
  closed form; with an injective activation (sigmoid, tanh, leaky_relu) and maps no smaller than
  their inputs (`width` 12 against colour images is just that) the layers below can be peeled off by
  least squares (Zhu and Blaschko, "R-GAP", ICLR 2021, https://arxiv.org/abs/2010.07733).
- `dropout` sits between the features and the classifier, and its mask must be guessed by attacks
  that optimise; `first_bias` adds the summed cotangent of the first maps to what is seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fedlab.tasks.models.blocks import Activation, activation_layer, at_least, choose, dropout_layer


def lenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 12,
    activation: Activation = "sigmoid",
    dropout: float = 0.0,
    init: Literal["wide", "torch"] = "wide",
    first_bias: bool = True,
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

    Raises:
        UsageError: a knob out of range.
    """
    channels, height, breadth = input_shape
    at_least("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, stride in enumerate((2, 2, 1), start=1):
        bias = first_bias or number > 1
        layers[f"conv{number}"] = nn.Conv2d(channels, width, 5, stride, padding=2, bias=bias)
        layers[f"activation{number}"] = activation_layer(activation)
        height, breadth = -(-height // stride), -(-breadth // stride)
        channels = width
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = dropout_layer(dropout)
    layers["head"] = nn.Linear(width * height * breadth, classes)
    net = nn.Sequential(layers)
    if choose("init", init, ("wide", "torch")) == "wide":
        for parameter in net.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return net
