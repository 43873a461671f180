"""Plugins of this folder's own, so that its tests say what they mean and import no torch."""

from __future__ import annotations

import inspect
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from fedlab.errors import UsageError


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 256,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    norm: Literal["none", "batch"] = "none",
    hidden: tuple[int, ...] = (256,),
) -> None:
    """A network.

    Args:
        width: units of the hidden layer.
    """


def npz(*, path: Path, scale: float = 1.0) -> None:
    """Arrays from a file."""


def digits(*, test_fraction: float = 0.2) -> None:
    """Digits."""


def weighted_mean(deltas: Any, weights: Any) -> None:
    """A mean."""


def fedavg(*, cohort: int) -> None:
    """A strategy."""


def buffered(
    *,
    cohort: int,
    concurrency: Annotated[int, Field(ge=1)],
    staleness: str | dict[str, Any] = "constant",
) -> None:
    """A strategy with a plugin among its options."""


class Constant:
    """A weight."""

    def weight(self) -> None: ...


class Polynomial:
    """Another one."""

    def __init__(self, *, exponent: Annotated[float, Field(ge=0)] = 0.5) -> None: ...

    def weight(self) -> None: ...


class FedAvg:
    """A local rule."""

    def direction(self) -> None: ...


class FedProx:
    """A local rule with a range, which its constructor knows as well."""

    def __init__(self, *, mu: Annotated[float, Field(ge=0)] = 1.0, steps: int = 1) -> None:
        if steps < 1:
            raise UsageError(f"steps = {steps}; expected at least 1")

    def direction(self) -> None: ...


def uniform(population: Any, size: int, round: int, generator: Any) -> None:
    """A sampler."""


def cyclic(population: Any, size: int, round: int, generator: Any, *, reshuffle: bool = False) -> None:
    """Another one."""


class SGD:
    """A server optimizer."""

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 1.0,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None: ...

    def step(self) -> None: ...


class Clipping:
    """A pre-aggregation."""

    def __init__(self, *, max_norm: Annotated[float, Field(gt=0)]) -> None: ...

    def __call__(self) -> None: ...


class SignFlip:
    """An adversary."""

    def __init__(self, *, scale: Annotated[float, Field(gt=0)] = 1.0) -> None: ...

    def craft(self) -> None: ...


class Inverting:
    """An attack."""

    def __init__(self, *, iterations: int = 100) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")

    def run(self) -> None: ...


class NoDefense:
    """Nothing."""

    def guarantee(self) -> None: ...


class Noise:
    """Noise."""

    def __init__(self, *, noise_multiplier: float, max_grad_norm: float = 1.0) -> None: ...

    def guarantee(self) -> None: ...


PLUGINS = {
    "models": {"mlp": "mlp"},
    "datasets": {"digits": "digits", "npz": "npz"},
    "aggregators": {"weighted-mean": "weighted_mean"},
    "strategies": {"fedavg": "fedavg", "buffered": "buffered"},
    "staleness": {"constant": "Constant", "polynomial": "Polynomial"},
    "local_rules": {"fedavg": "FedAvg", "fedprox": "FedProx"},
    "samplers": {"uniform": "uniform", "cyclic": "cyclic"},
    "preaggregators": {"clipping": "Clipping"},
    "server_optimizers": {"sgd": "SGD"},
    "adversaries": {"sign-flip": "SignFlip"},
    "attacks": {"inverting": "Inverting"},
    "defenses": {"none": "NoDefense", "noise": "Noise", "broken": "NotThere"},
}


def iid(labels: Any, clients: int, *, generator: Any, min_size: int = 1) -> None:
    """Even."""


def dirichlet(labels: Any, clients: int, *, generator: Any, min_size: int = 1, alpha: float = 0.5) -> None:
    """Skewed."""


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("scenario_test_plugins")
    vars(module).update({key: value for key, value in globals().items() if not key.startswith("_")})
    for one in vars(module).values():  # there is more than one "conftest" to resolve annotations in
        if getattr(one, "__module__", None) == __name__ and callable(one):
            monkeypatch.setattr(one, "__module__", module.__name__)
            for method in filter(inspect.isfunction, vars(one).values()):
                monkeypatch.setattr(method, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    partition = types.ModuleType("fedlab.tasks.partition")
    partition.PARTITIONS = {"iid": iid, "dirichlet": dirichlet}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, partition.__name__, partition)

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        listed = PLUGINS[group.removeprefix("fedlab.")]
        return [
            metadata.EntryPoint(name, f"{module.__name__}:{value}", group) for name, value in listed.items()
        ]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
