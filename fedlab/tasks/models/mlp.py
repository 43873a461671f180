"""Fully connected network.

Knobs and leaks, for one example per step:

- `first_bias=True` opens the closed form x = dW_i / db_i of Phong et al. (IEEE TIFS 2018,
  https://doi.org/10.1109/TIFS.2017.2787987; Geiping et al., NeurIPS 2020, Prop. 3.1), which no
  dropout behind the layer closes. Without the bias dW is still the outer product of the
  cotangent and x; the scalar that is left is fixed by the next layer or by the range of pixels,
  so that turning this knob alone protects nothing.
- `dropout` blinds an attack that ignores the masks, and not one that searches for them
  (Scheliga et al., AAAI 2023, https://arxiv.org/abs/2208.06163).
- A large `width` and a small `depth` give an optimising attack more equations per pixel; `relu`
  hides what its dead units saw, the smooth activations hide nothing.
- `norm="batch"` mixes the examples of a batch in training mode; `group` and `layer` do not.
- `skip` hands what a layer was given on beside what it made of it, dead units included.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from fedlab.errors import UsageError
from fedlab.tasks.models.blocks import (
    Activation,
    Norm,
    Skip,
    activation_layer,
    at_least,
    dropout_layer,
    unit_norm,
)


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int | list[int] = 256,
    depth: int = 2,
    activation: Activation = "relu",
    norm: Norm = "none",
    dropout: float = 0.0,
    first_bias: bool = True,
    skip: bool = False,
) -> nn.Module:
    """Flatten, then `depth` times linear, norm, activation, dropout, then a linear classifier.

    Args:
        input_shape: (C, H, W) of one image.
        classes: number of logits.
        width: units of each hidden layer; a list gives each layer its own and sets the depth.
        depth: number of hidden layers.
        activation: relu, leaky_relu, gelu, sigmoid or tanh.
        norm: none, batch, group or layer, before the activation.
        dropout: rate behind every activation.
        first_bias: whether the first layer has a bias.
        skip: whether there is a way around each hidden layer that has as many inputs as units.

    Raises:
        UsageError: a knob out of range.
    """
    widths = list(width) if isinstance(width, list) else [width] * at_least("depth", depth)
    if not widths:
        raise UsageError("width = []; expected at least one hidden layer")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = math.prod(input_shape)
    for number, units in enumerate(widths, start=1):
        at_least("width", units)
        layer: OrderedDict[str, nn.Module] = OrderedDict()
        layer[f"linear{number}"] = nn.Linear(inputs, units, bias=first_bias or number > 1)
        layer[f"norm{number}"] = unit_norm(norm, units)
        layer[f"activation{number}"] = activation_layer(activation)
        layer[f"dropout{number}"] = dropout_layer(dropout)
        if skip and inputs == units:
            layers[f"block{number}"] = Skip(layer)
        else:
            layers.update(layer)
        inputs = units
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
