"""Where an app computes its loss: torch's classes and functions, and modules that look like one.

A loss that is none of these (arithmetic on the outputs) is not seen, and its targets stay unknown.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.overrides import TorchFunctionMode

FUNCTIONS: dict[Callable[..., Tensor], str] = {
    getattr(F, name): name
    for name in (
        "cross_entropy",
        "nll_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
        "kl_div",
        "multi_margin_loss",
    )
}
DEFAULTS: dict[str, Any] = {
    "reduction": "mean",
    "label_smoothing": 0.0,
    "ignore_index": -100,
    "weight": None,
    "pos_weight": None,
}


class Called(NamedTuple):
    """One call of a loss.

    Attributes:
        name: of the class or function.
        settings: those that are not torch's defaults.
        targets: what the outputs were compared with.
    """

    name: str
    settings: Mapping[str, Any]
    targets: Tensor


def of_module(module: nn.Module, args: Sequence[Any], *, outermost: bool) -> Called | None:
    """The call, if `module` is a loss: one of torch's, or, outside of all others, one without parameters
    that compares an output (which has a gradient) with a tensor that has none."""
    output, targets = [*args, None, None][:2]
    if not isinstance(targets, Tensor) or targets.grad_fn is not None:
        return None
    if isinstance(module, _Loss):
        return Called(type(module).__name__, _settings(vars(module) | module._buffers), targets)
    compares = outermost and isinstance(output, Tensor) and output.grad_fn is not None
    if compares and next(module.parameters(), None) is None:
        return Called(type(module).__name__, {}, targets)
    return None


def of_function(function: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Called | None:
    """The call, if `function` is one of torch's losses."""
    name = FUNCTIONS.get(function)
    if name is None:
        return None
    given = _signature(function).bind(*args, **named).arguments
    targets = given.get("target")
    return Called(name, _settings(given), targets) if isinstance(targets, Tensor) else None


class Functions(TorchFunctionMode):
    """While active, tells `seen` of every call of a loss function, with its result."""

    def __init__(self, seen: Callable[[Called, Tensor], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        called = of_function(func, args, named)
        if called is not None:
            self._seen(called, result)
        return result


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, default in DEFAULTS.items():
        value = given.get(name, default)
        if isinstance(value, Tensor):
            found[name] = value.tolist()
        elif value != default:
            found[name] = value
    return found
