"""What a run was given as objects from Python, beside its scenario; and how a cell gets its strategy."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedlab import plugins
from fedlab.clients import LocalRule
from fedlab.clients.rules import ServerSide
from fedlab.errors import PluginError, UsageError
from fedlab.scenario.schema import Strategy as Settings
from fedlab.strategies import Composition, ServerOptimizer

PARTS = ("pre_aggregation", "aggregator", "server_optimizer", "sampling", "over_selection")
"""Keys of [strategy] that a Flower strategy, which is whole, would pass over."""


ASKED = ("personal",)
"""Arguments that only those strategies get that have a parameter of the name."""


@dataclass(frozen=True)
class Own:
    """Parts of the algorithm that came from Python; None where the scenario decides.

    Attributes:
        strategy: an instance, of which each cell gets a copy, or what makes one for each cell.
        parts: keys of [strategy] that any of it stands for.
    """

    local_rule: LocalRule | None = None
    server_optimizer: ServerOptimizer | None = None
    strategy: Strategy | Callable[..., Strategy] | None = None
    parts: frozenset[str] = frozenset()


def own(
    *,
    aggregator: object = None,
    local_rule: object = None,
    server_optimizer: object = None,
    strategy: object = None,
) -> Own:
    """The same; a class may stand for the object that it makes without arguments.

    Raises:
        UsageError: one of them is no such thing.
    """
    rule = local_rule() if isinstance(local_rule, type) else local_rule
    if rule is not None and not isinstance(rule, LocalRule):
        raise UsageError(f"local_rule is a {type(rule).__name__}; expected a fedlab.clients.LocalRule")
    optimizer: Any = server_optimizer() if isinstance(server_optimizer, type) else server_optimizer
    if optimizer is not None and not callable(getattr(optimizer, "step", None)):
        raise UsageError(
            f"server_optimizer is a {type(optimizer).__name__}; expected an object with step(delta, state)"
        )
    made: Any = strategy
    if made is not None and not isinstance(made, Strategy) and not callable(made):
        raise UsageError(
            f"strategy is a {type(made).__name__}; expected a Flower Strategy, or what makes one when called"
        )
    parts = {"aggregator": aggregator, "server_optimizer": optimizer}
    return Own(rule, optimizer, made, frozenset(key for key, part in parts.items() if part is not None))


def make_strategy(
    settings: Settings,
    arguments: Mapping[str, Any],
    own: Own,
    server: ServerSide,
) -> Strategy:
    """A cell's strategy: a copy of an object, Flower's class with its options, or a composition.

    Args:
        arguments: what a composition is made of.
        own: what came from Python, whose strategy counts instead of the scenario's.
        server: the server's half of the local rule, which Flower's strategies do not know.

    Raises:
        UsageError: the strategy does not take what the scenario asks for.
        PluginError: it is none.
    """
    options: dict[str, Any] = {}
    given = own.strategy
    if given is None:
        factory = plugins.load("strategies", settings.name)
        bound = plugins.bind("strategies", {**settings.options, "name": settings.name})
        if isinstance(bound, functools.partial) and bound is not factory:
            options = bound.keywords
        who = f"the strategy {settings.name!r} (from {plugins.provider('strategies', settings.name)})"
    else:
        who = f"the strategy {getattr(given, '__name__', type(given).__name__)}"
        if isinstance(given, Strategy):
            _whole(who, settings, arguments, own.parts, server, isinstance(given, Composition))
            return copy.deepcopy(given)
        factory = given
    if _flowers(factory) or (given is not None and _fits(factory, {})):
        _whole(who, settings, arguments, own.parts, server, False)
        arguments = {}
    arguments = {key: value for key, value in arguments.items() if key not in ASKED or _asks(factory, key)}
    try:
        inspect.signature(factory).bind(**arguments, **options)
    except (TypeError, ValueError) as error:
        told = ", ".join([*arguments, *options]) or "nothing"
        raise UsageError(f"{who} cannot be called with {told}: {error}") from error
    made: Any = factory(**arguments, **options)
    if not isinstance(made, Strategy):
        raise PluginError(f"{who} made a {type(made).__name__}; expected a flwr.serverapp.strategy.Strategy")
    return made


def _asks(factory: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(factory).parameters


def _flowers(factory: Any) -> bool:
    return inspect.isclass(factory) and issubclass(factory, Strategy)


def _fits(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(factory).bind(**arguments)
    except (TypeError, ValueError):
        return False
    return True


def _whole(
    who: str,
    settings: Settings,
    arguments: Mapping[str, Any],
    own_parts: frozenset[str],
    server: ServerSide,
    composed: bool,
) -> None:
    """Refuse what a strategy that is whole would silently do without."""
    defaults = type(settings).model_fields
    beside = {
        key
        for key in PARTS
        if key in own_parts or getattr(settings, key, None) != getattr(defaults.get(key), "default", None)
    }
    if beside:
        raise UsageError(
            f"{who} is whole: it takes no {' and no '.join(sorted(beside))} beside it; leave that out"
        )
    if "stragglers" in arguments:
        raise UsageError(
            f"{who} tells all clients the same; clients.stragglers is for fedlab's own strategies"
        )
    if type(server) is not ServerSide and not composed:
        raise UsageError(
            f"the local rule has a server's half ({type(server).__name__}), which {who} does not know;"
            " run it with fedlab's own strategies, or choose a rule without one (fedavg, fedprox)"
        )
