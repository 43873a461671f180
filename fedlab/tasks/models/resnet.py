"""Residual network for small images, with the knobs that decide leakage in training mode.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385 (`order="post"`), and "Identity Mappings in Deep Residual
Networks", ECCV 2016, https://arxiv.org/abs/1603.05027 (`order="pre"`). Deviations: three stages by
default whatever the image, a 3x3 stem without pooling, projection shortcuts where the shape changes.

Knobs and leaks. For clients in training mode Valadi et al. (2025, https://arxiv.org/abs/2508.19819)
report that optimising attacks need all four of: few blocks (`depth`), many channels (`width`), skip
connections (`skip=True`) and normalisation before the activation path (`order="pre"`). Further:

- `norm="batch"` mixes the examples of a batch, and its running statistics reach the server.
- `head="average"` keeps only the mean of each map, `"flatten"` gives the classifier's input, all of
  the last maps, away in closed form at one example per step.
- `pool="max"` and `"avg"` halve the maps behind a block's first convolution, and throw values away; with
  `"stride"` that convolution takes every second pixel.
- `dropout` (inside each block, as in Wide ResNet, BMVC 2016, and before the classifier) must be
  guessed by attacks that optimise.
- `first_bias` (off, as usual in front of a norm) adds the summed cotangent of the stem.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fedlab.tasks.models.blocks import (
    Activation,
    GlobalAverage,
    Norm,
    Pool,
    activation_layer,
    at_least,
    choose,
    dropout_layer,
    norm_layer,
    pool_layer,
)


class Block(nn.Module):
    """Two 3x3 convolutions, with or without a way around them: (B, C, H, W) to (B, C', H', W')."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        skip: bool,
        norm: str,
        order: str,
        activation: str,
        dropout: float,
        pool: str,
    ) -> None:
        super().__init__()
        self.pre = order == "pre"
        self.pool = pool_layer(pool) if stride > 1 and pool != "stride" else None
        halves = stride > 1
        stride = 1 if self.pool is not None else stride
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm1 = norm_layer(norm, inputs if self.pre else outputs)
        self.norm2 = norm_layer(norm, outputs)
        self.activation = activation_layer(activation)
        self.dropout = dropout_layer(dropout)
        self.shortcut: nn.Module | None = None
        if skip and not halves and inputs == outputs:
            self.shortcut = nn.Identity()
        elif skip:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            h = self._halved(self.conv1(self.activation(self.norm1(x))))
            h = self.conv2(self.dropout(self.activation(self.norm2(h))))
        else:
            h = self.dropout(self.activation(self.norm1(self._halved(self.conv1(x)))))
            h = self.norm2(self.conv2(h))
        if self.shortcut is not None:
            h = h + self._halved(self.shortcut(x))
        return h if self.pre else self.activation(h)  # type: ignore[no-any-return]

    def _halved(self, x: Tensor) -> Tensor:
        return x if self.pool is None else self.pool(x)


def resnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    depth: int = 1,
    width: int = 16,
    stages: int = 3,
    skip: bool = True,
    norm: Norm = "batch",
    order: Literal["post", "pre"] = "post",
    head: Literal["average", "flatten"] = "average",
    activation: Activation = "relu",
    dropout: float = 0.0,
    first_bias: bool = False,
    pool: Pool = "stride",
) -> nn.Module:
    """A stem, `stages` of `depth` blocks each, and a linear classifier.

    Args:
        input_shape: (C, H, W) of one image.
        classes: number of logits.
        depth: blocks per stage.
        width: channels of the first stage; each further stage has twice as many on half the side.
        stages: number of stages.
        skip: whether blocks have skip connections.
        norm: none, batch, group or layer.
        order: post (convolution, norm, activation) or pre (norm, activation, convolution).
        head: average (the mean of each map) or flatten (all features).
        activation: relu, leaky_relu, gelu, sigmoid or tanh.
        dropout: rate inside each block and before the classifier.
        first_bias: whether the stem's convolution has a bias.
        pool: max, avg or stride, where a stage begins on half the side.

    Raises:
        UsageError: a knob out of range.
    """
    channels, height, breadth = input_shape
    choose("order", order, ("post", "pre"))
    choose("head", head, ("average", "flatten"))
    choose("pool", pool, ("max", "avg", "stride"))
    at_least("depth", depth)
    maps = at_least("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Conv2d(channels, maps, 3, padding=1, bias=first_bias)
    if order == "post":
        layers["stem_norm"], layers["stem_activation"] = norm_layer(norm, maps), activation_layer(activation)
    channels = maps
    for stage in range(1, at_least("stages", stages) + 1):
        for number in range(1, depth + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            maps = width * 2 ** (stage - 1)
            layers[f"block{stage}_{number}"] = Block(
                channels,
                maps,
                stride,
                skip=skip,
                norm=norm,
                order=order,
                activation=activation,
                dropout=dropout,
                pool=pool,
            )
            channels, height, breadth = maps, -(-height // stride), -(-breadth // stride)
    if order == "pre":
        layers["last_norm"], layers["last_activation"] = norm_layer(norm, maps), activation_layer(activation)
    layers["flatten"] = GlobalAverage() if head == "average" else nn.Flatten()
    layers["dropout"] = dropout_layer(dropout)
    layers["head"] = nn.Linear(maps if head == "average" else maps * height * breadth, classes)
    return nn.Sequential(layers)
