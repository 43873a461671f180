"""Ranges are known to the plugins only, so a scenario's plugins are tried out before anything runs.

Networks are made on torch's meta device, where they take no memory. A partition divides the data
where these are at hand at once, otherwise a stand-in. Of fedlab's own data sets the parameters are
tried; a stranger's might fetch or unpack anything, so that it is left to the run. So is everything
else that only the data can tell: a trial without a finding proves nothing.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlab import plugins
from fedlab.errors import DataError, FedlabError

if TYPE_CHECKING:
    from fedlab.tasks.task import Dataset

OWN = "own"
"""Name of a data set or model that came as an object from Python: there is nothing to try."""

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "photos": (3, 32, 32),
    "cifar-samples": (3, 32, 32),
}
"""Images of fedlab's own data sets; those of any other are known when it is read."""

NOWHERE = Path("/nonexistent/fedlab")
"""Where a data set that comes from large files is sent: it judges parameters before it looks there."""

CLASSES = 10
LARGEST = 100_000
"""Records of a stand-in; more are not asked for."""

REFUSALS = (FedlabError, ValueError, TypeError)
"""What constructors refuse values with; anything else may be the meta device's own trouble."""

Fault = tuple[tuple[str, ...], str]
"""(the parameter that the message names, if it does, message)"""


def dataset(name: str, params: Mapping[str, Any]) -> tuple[Dataset | None, list[Fault]]:
    """The training records, where they are at hand, and what is wrong with the parameters."""
    if name == OWN or plugins.provider("datasets", name) != plugins.HOME:
        return None, []
    known = {item.name for item in plugins.parameters("datasets", name)}
    try:
        if "path" not in known:
            return plugins.build("datasets", {**params, "name": name})[0], []
        if "test_fraction" in params:
            from fedlab.tasks.datasets.split import split

            split(_stand_in(2), params["test_fraction"], 0)
        plugins.build("datasets", {**params, "name": name, "path": str(NOWHERE)})
    except DataError:  # whether the files are there is for the run to say
        pass
    except FedlabError as error:
        return None, [_fault(error, params)]
    return None, []


def partition(
    function: Callable[..., Any], params: Mapping[str, Any], data: Dataset | None, clients: Any
) -> list[Fault]:
    """What is wrong with a partition's parameters, and with the number of clients if there are data."""
    from fedlab.seeds import numpy_generator

    if data is not None and type(clients) is int and clients >= 1:
        trials = [(data, clients)]
    else:  # which classes the data have is unknown: what suits any is sound
        size = max([1, *(value for value in params.values() if type(value) is int)])
        if size > LARGEST:
            return []
        trials = [(_stand_in(size), 1), (_stand_in(min(size * CLASSES**2, 10 * LARGEST), CLASSES), CLASSES)]
    found: list[Fault] = []
    for records, count in trials:
        try:
            function(records, count, generator=numpy_generator(0, "partition"), **params)
            return []
        except FedlabError as error:
            found.append(_fault(error, params))
    return found[-1:]


def local_rule(name: str, params: Mapping[str, Any], clients: Mapping[str, Any]) -> list[Fault]:
    """What a local rule refuses of the way in which clients are to train, as far as that is sound."""
    from fedlab.clients.config import ClientConfig

    numbers = {
        key: value
        for key, value in clients.items()
        if key in ClientConfig.__dataclass_fields__ and type(value) in (int, float)
    }
    check = getattr(plugins.build("local_rules", {**params, "name": name}), "check", None)
    try:
        if callable(check):
            check(ClientConfig(**numbers))
    except FedlabError as error:
        return [((), str(error))]
    return []


def time(spread: Callable[..., Any], params: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the parameters of a spread of computing times."""
    try:
        spread(**params)
    except FedlabError as error:
        return [_fault(error, params)]
    return []


def cohort(
    size: int, aggregator: Mapping[str, Any], before: Mapping[str, Any] | None, absent: float = 0.0
) -> str:
    """Why a round cannot be aggregated, or nothing.

    Args:
        size: clients that a round asks.
        aggregator, before: the aggregator and the pre-aggregation, with "name" and parameters.
        absent: share of them that is left out of the round.
    """
    from fedlab.strategies.aggregators import PreAggregated, as_aggregator, minimum

    try:
        found = as_aggregator(plugins.build("aggregators", aggregator))
        if before is not None:
            found = PreAggregated(plugins.build("preaggregators", before), found)
        least = minimum(found)
    except Exception:  # what a stranger's plugin makes of it is for the run to say
        return ""
    left = round((1.0 - absent) * size)
    if left >= least:
        return ""
    whom = f"{size} clients, of whom stragglers leave {left}" if left < size else f"{size} clients"
    behind = f" after {before['name']!r}" if before else ""
    return (
        f"the aggregator {aggregator['name']!r}{behind} combines at least {least} updates as it is set, but a"
        f" round asks {whom}; raise strategy.cohort, or expect fewer attackers (f)"
    )


def strategy(settings: Mapping[str, Any], size: int) -> Iterator[Fault]:
    """What one of fedlab's own strategies refuses of the parts that it is to work with.

    Args:
        settings: `[strategy]`, its plugins as tables; it and its options are otherwise sound.
        size: clients that a round asks.
    """
    from fedlab.clients.config import ClientConfig
    from fedlab.strategies.aggregators import as_aggregator

    name = str(settings["name"])
    if plugins.provider("strategies", name) != plugins.HOME:
        return
    factory = plugins.load("strategies", name)
    taken = inspect.signature(factory).parameters
    for key, default in (("over_selection", 1.0), ("quorum", 1)):
        if settings.get(key, default) != default and key not in taken:
            yield (key,), f"the strategy {name} has no {key}; leave it out"
    if "personal" in taken:  # what stays with the clients, the network tells
        return
    arguments: dict[str, Any] = {"cohort": size, "seed": 0, "parameters": ["weight"], **settings["options"]}
    try:
        arguments["aggregator"] = as_aggregator(plugins.build("aggregators", settings["aggregator"]))
        arguments["optimizer"] = plugins.build("server_optimizers", settings["server_optimizer"])
        arguments["sampler"] = plugins.build("samplers", settings["sampling"])
        arguments["server"] = plugins.build("local_rules", settings["local_rule"]).server
        arguments["config"] = ClientConfig()
    except Exception:  # told at its own place, or for the run to say
        return
    try:
        factory(**{key: value for key, value in arguments.items() if key in taken})
    except FedlabError as error:
        text = str(error)
        if text.startswith("the aggregator needs"):
            return  # `cohort` tells it
        places = {"the sampler": "sampling", "the local rule's": "local_rule", "strategy.cohort": "cohort"}
        told = [key for start, key in places.items() if start in text]
        yield tuple(told[:1] or ["options"]), text
    except Exception:  # for the run to say
        return


def network(
    dataset: str | None,
    model: str,
    params: Mapping[str, Any],
    change: Callable[[Callable[[], Any]], Callable[[], Any]] | None = None,
    knobs: Mapping[str, Any] | None = None,
) -> list[Fault]:
    """What a model refuses, on every size of image that the data may have.

    Args:
        dataset: name of the data set; its images are of any size if it is None or a stranger's.
        change: what a defense makes of the function that makes the network.
        knobs: the parameters that a message may name; those of the model unless given.
    """
    import torch

    if model == OWN:
        return []
    found: list[Fault] = []
    for shape in _shapes(dataset, {**params, **(knobs or {})}):
        make = functools.partial(plugins.bind("models", {**params, "name": model}), shape, CLASSES)
        try:
            with torch.device("meta"):
                (change(make) if change else make)()
            return []
        except REFUSALS as error:
            found.append(_fault(error, params if knobs is None else knobs))
        except Exception:
            return []
    return found[:1]


def _shapes(dataset: str | None, params: Mapping[str, Any]) -> Iterable[tuple[int, int, int]]:
    """The shape of the images; if it is unknown, shapes that some choice of patches or depth fits."""
    if dataset in SHAPES and plugins.provider("datasets", dataset) == plugins.HOME:
        return [SHAPES[dataset]]
    sizes = {value for value in params.values() if type(value) is int and 1 <= value <= 64}
    return [(3, side, side) for side in (32, 28, 1024, *sorted(32 * size for size in sizes))]


def _stand_in(size: int, classes: int = 1) -> Dataset:
    """`size` black images of one pixel, as many of each class as of any other."""
    import numpy as np

    from fedlab.tasks.task import Dataset

    return Dataset(
        "stand-in", np.zeros((size, 1, 1, 1), np.uint8), np.arange(size) % classes, classes, "nowhere"
    )


_NAMED = re.compile(r"(\w+) = (.+?); (expected .+)", re.DOTALL)


def _fault(error: Exception, params: Mapping[str, Any]) -> Fault:
    """`width = -3; expected ...` stands at `width`, and need not repeat it."""
    text = str(error) if isinstance(error, FedlabError) else f"{type(error).__name__}: {error}"
    named = _NAMED.fullmatch(text)
    if named and named[1] in params:
        return (named[1],), f"got {named[2]}; {named[3]}"
    told = [key for key in params if text.startswith(f"{key} ") or f'"{key}"' in text]
    return tuple(told[:1]), text
