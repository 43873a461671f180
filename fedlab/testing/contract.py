"""What every contract asks: plain functions of their arguments, answers of the right kind, plain memories."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedlab.errors import FedlabError
from fedlab.snapshot import Snapshot

Answer = TypeVar("Answer")
GENERATORS = (torch.Generator, np.random.Generator)


class ContractError(FedlabError, AssertionError):
    """A plugin does not keep its contract; for pytest, a failed assertion."""


def demand(holds: bool, what: str, got: object, expected: str, remedy: str = "") -> None:
    """Refuse unless `holds`: `what: got ...; expected .... remedy`."""
    __tracebackhide__ = True
    if not holds:
        raise ContractError(f"{what}: got {got}; expected {expected}" + (f". {remedy}" if remedy else ""))


def answer(what: str, function: Callable[..., Answer], arguments: Callable[[], tuple[Any, ...]]) -> Answer:
    """What `function` answers, if it is a function of its arguments and of nothing else.

    It is called twice, each time with new arguments: it must answer the same bits, leave its arguments as
    they are, and draw nothing from the global generators of Python, numpy and torch.

    Args:
        what: how to call it in errors ("aggregate on equal updates").

    Raises:
        ContractError: it does not, or it raises something.
    """
    __tracebackhide__ = True
    answers = []
    for _ in range(2):
        given, untouched = arguments(), arguments()
        before = _global_states()
        try:
            answers.append(function(*given))
        except Exception as error:  # a plugin may raise anything
            raise ContractError(f"{what} raised {type(error).__name__}: {error}") from error
        for name, state in _global_states().items():
            demand(
                same(before[name], state),
                what,
                f"a draw from the global generator of {name}",
                "none",
                "Draw from the generator that is passed in: a run must give the same bits again",
            )
        demand(
            same(given, untouched),
            what,
            "arguments that were changed in place",
            "arguments left as they are",
            "Others still need them; make a new tensor (a + b, a.clone()) instead of a.add_(b)",
        )
    demand(
        same(*answers),
        what,
        "two answers to the same question",
        "the same bits both times",
        "Keep nothing on the object between calls, and draw from the generator that is passed in",
    )
    return answers[0]


def vector(what: str, value: object, size: int) -> None:
    """Refuse anything but a finite vector (size,) of float64."""
    __tracebackhide__ = True
    if not isinstance(value, Tensor):
        raise ContractError(f"{what}: got a {type(value).__name__}; expected a tensor of shape ({size},)")
    demand(tuple(value.shape) == (size,), f"{what}: shape", tuple(value.shape), f"({size},)")
    demand(
        value.dtype == torch.float64,
        f"{what}: dtype",
        value.dtype,
        "torch.float64",
        "The server computes in float64, so that a sum does not depend on how it is cut",
    )
    broken = int((~torch.isfinite(value)).sum())
    demand(broken == 0, what, f"{broken} numbers that are NaN or infinite", "finite numbers")


def pair(what: str, value: object) -> tuple[Any, dict[str, Any]]:
    """Refuse anything but (answer, state) with a state that is a dict."""
    __tracebackhide__ = True
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], dict):
        told = [type(one).__name__ for one in value] if isinstance(value, tuple) else type(value).__name__
        raise ContractError(f"{what}: got {told}; expected a pair (tensor, state), with a dict as the state")
    return value


def kept(owner: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it comes back from a checkpoint.

    Raises:
        ContractError: a checkpoint cannot hold it.
    """
    __tracebackhide__ = True
    try:
        snapshot = Snapshot.of_state(owner, state)
    except FedlabError as error:
        raise ContractError(str(error)) from error
    return Snapshot(snapshot.tensors, json.loads(json.dumps(snapshot.values))).state()


def same(one: object, other: object) -> bool:
    """Whether two nested values are equal to the last bit; generators among them are passed over."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and _bytes(one) == _bytes(other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, GENERATORS):
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return type(one) is type(other) and bool(one == other)


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().tobytes()


def _global_states() -> dict[str, object]:
    return {
        "Python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
