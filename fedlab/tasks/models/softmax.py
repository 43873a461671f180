"""Multinomial logistic regression: one linear layer, whose loss is convex.

Knobs and leaks: at one example per step dW = δ xᵀ and db = δ, so that the input is dW_i / db_i, exactly
(Phong et al., IEEE TIFS 2018, https://doi.org/10.1109/TIFS.2017.2787987). `bias=False` takes that ratio
away and leaves x up to a factor. From zero weights the gradient of the first step also tells the label.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn


def softmax(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: Literal["zero", "torch"] = "zero",
    bias: bool = True,
) -> nn.Module:
    """Flatten, then one linear layer: softmax regression.

    Args:
        input_shape: (C, H, W) of one record.
        classes: number of logits.
        init: zero, from which all classes are equally likely, or torch (its default for a linear layer).
        bias: whether there is one per class.
    """
    linear = nn.Linear(math.prod(input_shape), classes, bias=bias)
    if init == "zero":
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=linear))
