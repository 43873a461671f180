"""Which array of a message is which tensor of the network.

Apps of the message API send a state dict, whose names say it (up to a prefix such as torch.compile's or
Opacus's). A NumPyClient sends a list: its order is that of the state dict, or of a part of it, and a client
that trains from what it was sent has the very same numbers in its network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlab.apps.contract import Arrays

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Naming:
    """Names of the network's tensors by names of a message's arrays, in its order; how they were found.

    Attributes:
        words: where the match is from.
        equal: whether the network held the very numbers that were sent, before its first step.
    """

    names: Mapping[str, str]
    words: str
    equal: bool


def match(arrays: Arrays, state: Mapping[str, Tensor], order: Sequence[str] | None = None) -> Naming | None:
    """Match a message with the network that was trained from it; None if they do not fit.

    Args:
        state: the network's state dict, before its first step.
        order: the state-dict keys of the arrays, if somebody says so.
    """
    held = {name: value.detach().cpu().numpy() for name, value in state.items()}
    if order is not None:
        names = dict(zip(arrays, order, strict=False)) if len(order) == len(arrays) else {}
        fits = bool(names) and all(_fits(arrays[key], held.get(name)) for key, name in names.items())
        return _found(names, arrays, held, "stated by the app's author") if fits else None
    if found := _by_name(arrays, held):
        return found
    for same, words in ((_same, "in the order of the state dict, by their values"), (_fits, _BY_SHAPE)):
        whole = same is _fits
        places = _in_order(arrays, held, same, whole=whole)
        if places is not None:
            return _found(places, arrays, held, words)
    return None


_BY_SHAPE = "in the order of the state dict, by their shapes"


def _by_name(arrays: Arrays, held: Mapping[str, Values]) -> Naming | None:
    """Names that agree, as they are or with a prefix on either side."""
    first = next(iter(arrays), "")
    prefixes = {name[: -len(first)] for name in held if first and name.endswith(first)}
    for prefix in sorted(prefixes, key=len):
        names = {key: prefix + key for key in arrays}
        if all(_fits(arrays[key], held.get(name)) for key, name in names.items()):
            words = "names of the network's state dict" + (
                f", which has {prefix!r} before them" if prefix else ""
            )
            return _found(names, arrays, held, words)
    prefixes = {first[: -len(name)] for name in held if first.endswith(f".{name}")}
    for prefix in sorted(prefixes, key=len):
        names = {key: key.removeprefix(prefix) for key in arrays}
        if all(_fits(arrays[key], held.get(name)) for key, name in names.items()):
            words = f"names of the network's state dict with {prefix!r} before them"
            return _found(names, arrays, held, words)
    return None


def _in_order(
    arrays: Arrays, held: Mapping[str, Values], same: object, *, whole: bool
) -> dict[str, str] | None:
    """Each array with the next tensor that it fits; `whole` if none may be passed over but counters."""
    left = iter(held.items())
    names: dict[str, str] = {}
    for key, value in arrays.items():
        for name, tensor in left:
            if callable(same) and same(value, tensor):
                names[key] = name
                break
            if whole and not name.endswith("num_batches_tracked"):
                return None
        else:
            return None
    return names


def _fits(value: Values, tensor: Values | None) -> bool:
    """Whether they have one shape; a number may be an array of one."""
    if tensor is None or value.size != tensor.size:
        return False
    return value.shape == tensor.shape or value.size == 1


def _same(value: Values, tensor: Values | None) -> bool:
    return _fits(value, tensor) and tensor is not None and _equal(value, tensor)


def _equal(value: Values, tensor: Values) -> bool:
    return bool(np.array_equal(value.reshape(tensor.shape).astype(tensor.dtype), tensor))


def _found(names: Mapping[str, str], arrays: Arrays, held: Mapping[str, Values], words: str) -> Naming:
    equal = all(_equal(arrays[key], held[name]) for key, name in names.items())
    return Naming(dict(names), words, equal)
