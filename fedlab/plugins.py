"""Plugins by name: whatever an installed package lists under `[project.entry-points."fedlab.<kind>"]`.

The built-in plugins enter through the same door as anyone else's. Nothing is imported before it is
asked for, and a broken plugin hurts no other. A name that two packages claim belongs to fedlab's own
if one of the two is; otherwise to nobody, and the message names both.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Protocol

from fedlab import signature
from fedlab.errors import PluginError, UnknownName, UsageError
from fedlab.signature import REQUIRED, Parameter

__all__ = [
    "KINDS",
    "REQUIRED",
    "Parameter",
    "alone",
    "bind",
    "build",
    "interrupted",
    "load",
    "names",
    "parameters",
    "provider",
    "shadowed",
    "singular",
]

GIVEN = {
    "strategies": 0,
    "staleness": 0,
    "local_rules": 0,
    "samplers": 4,
    "preaggregators": 0,
    "aggregators": 2,
    "server_optimizers": 0,
    "adversaries": 0,
    "attacks": 0,
    "defenses": 0,
    "datasets": 0,
    "models": 2,
}
"""Per kind, how many leading arguments fedlab itself passes (a model's input shape and classes)."""

COMPOSED = frozenset(
    "aggregator optimizer cohort seed parameters over_selection quorum sampler records server config root"
    " stragglers personal tasks".split()
)
"""Arguments of a strategy that come from other keys of a scenario; what else it takes are its options."""

FUNCTIONS = ("aggregators", "samplers")
"""Kinds whose plugins may be plain functions, used as they are."""

KINDS = tuple(GIVEN)
HOME = "fedlab-audit"

_METHODS = {
    "staleness": "weight",
    "local_rules": "direction",
    "samplers": "__call__",
    "preaggregators": "__call__",
    "aggregators": "aggregate",
    "server_optimizers": "step",
    "adversaries": "craft",
    "attacks": "run",
    "defenses": "guarantee",
}
"""Per kind, the method by which its classes are known: this bottom layer cannot import their bases."""


class Spec(Protocol):
    """A plugin's name and parameters, as a scenario holds them."""

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Mapping[str, Any]: ...


def names(kind: str) -> list[str]:
    """The names of all plugins of a kind, broken or not; imports none of them."""
    return sorted({entry.name for entry in _entries(kind)})


def provider(kind: str, name: str) -> str:
    """The installed distributions that offer the plugin: one, unless the name is contested."""
    return " and ".join(sorted({_distribution(entry) for entry in _claims(kind, name)}))


def shadowed(kind: str, name: str) -> list[str]:
    """Distributions whose plugin of that name is ignored, because the name is fedlab's own."""
    winners = {_distribution(entry) for entry in _claims(kind, name)}
    return sorted({_distribution(entry) for entry in _entries(kind) if entry.name == name} - winners)


def alone(kind: str, name: str) -> bool:
    """Whether the module of the plugin offers no other one of its kind."""
    modules = {entry.name: entry.module for entry in _entries(kind)}
    return list(modules.values()).count(modules[name]) == 1


def load(kind: str, name: str) -> Callable[..., Any]:
    """Import a plugin.

    Raises:
        UnknownName: there is none of that name.
        PluginError: it does not import, two packages claim the name, or it is no plugin of its kind.
    """
    claims = _claims(kind, name)
    who = f"the {singular(kind)} {name!r} ({claims[0].value}, from {provider(kind, name)})"
    if len(claims) > 1:
        raise PluginError(
            f"the {singular(kind)} {name!r} is claimed by {provider(kind, name)}; uninstall all but one"
        )
    try:
        plugin: Callable[..., Any] = claims[0].load()
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported
        if interrupted(error):  # or else "broken plugin" is what would be told
            raise KeyboardInterrupt from error
        raise PluginError(
            f"{who} does not import: {type(error).__name__}: {error}; repair or uninstall that package"
        ) from error
    method = _METHODS.get(kind)
    if not callable(plugin):
        raise PluginError(f"{who} is a {type(plugin).__name__}; expected a class or a function")
    if method and inspect.isclass(plugin) and not callable(getattr(plugin, method, None)):
        raise PluginError(f"{who} is a class without `{method}`; expected one, as {kind} have it")
    if method and kind not in FUNCTIONS and not inspect.isclass(plugin):
        raise PluginError(f"{who} is a function; expected a class, as {kind} are")
    return plugin


def interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is what is behind an error: an import that it stops may end in any other one."""
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        one = chain.pop()
        if isinstance(one, KeyboardInterrupt):
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            chain += [one.__cause__, one.__context__]
    return False


def bind(kind: str, spec: str | Mapping[str, Any] | Spec, **params: Any) -> Callable[..., Any]:
    """A plugin with its parameters, checked and converted, that waits for its other arguments.

    `bind("models", {"name": "mlp", "width": 64})((1, 8, 8), 10)` makes a network, as often as it is
    called. `params` are added to those of the spec, and win.

    Raises:
        UnknownName, PluginError: as `load`.
        UsageError: a parameter that the plugin does not have, lacks, or has with another type.
    """
    if isinstance(spec, str):
        name, given = spec, {}
    elif isinstance(spec, Mapping):
        given = dict(spec)
        name = given.pop("name")
    else:
        name, given = spec.name, dict(spec.params)
    plugin = load(kind, name)
    values, faults = signature.fit(parameters(kind, name), given | params)
    if faults:
        told = "; ".join(f"{key}: {text}" for key, text in faults)
        raise UsageError(f"the {singular(kind)} {name!r} cannot be made from these parameters: {told}")
    return functools.partial(plugin, **values) if values else plugin


def build(kind: str, spec: str | Mapping[str, Any] | Spec, *args: Any, **params: Any) -> Any:
    """Make a plugin: `build("models", {"name": "mlp", "width": 64}, (1, 8, 8), 10)`.

    An aggregator or a sampler that is a function comes back as `bind` leaves it; everything else is called.

    Raises:
        UnknownName, PluginError, UsageError: as `bind`.
    """
    bound = bind(kind, spec, **params)
    plain = bound.func if isinstance(bound, functools.partial) else bound
    return bound if kind in FUNCTIONS and not inspect.isclass(plain) else bound(*args)


def parameters(kind: str, name: str) -> list[Parameter]:
    """The knobs of a plugin that a scenario may set, in the order of its signature."""
    plugin = load(kind, name)
    given = 0 if kind in FUNCTIONS and inspect.isclass(plugin) else GIVEN[kind]
    found = signature.parameters(plugin, given)
    return [item for item in found if item.name not in COMPOSED] if kind == "strategies" else found


def _entries(kind: str) -> list[metadata.EntryPoint]:
    """All entry points of a kind; a distribution that is found twice on the path counts once."""
    if kind not in GIVEN:
        raise UnknownName("kind of plugin", kind, KINDS)
    return list(_installed(kind, metadata.entry_points, tuple(sys.path)))


@functools.lru_cache(maxsize=64)
def _installed(
    kind: str, entry_points: Callable[..., metadata.EntryPoints], path: tuple[str, ...]
) -> tuple[metadata.EntryPoint, ...]:
    """Read once per search path: all the files of all packages are opened for it."""
    found = entry_points(group=f"fedlab.{kind}")
    return tuple({(entry.name, entry.value, _distribution(entry)): entry for entry in found}.values())


def _claims(kind: str, name: str) -> list[metadata.EntryPoint]:
    entries = _entries(kind)
    claims = [entry for entry in entries if entry.name == name]
    if not claims:
        raise UnknownName(singular(kind), name, {entry.name for entry in entries})
    return [entry for entry in claims if _distribution(entry) == HOME] or claims


def _distribution(entry: metadata.EntryPoint) -> str:
    return _called(entry.dist) if entry.dist is not None else "an unnamed package"


@functools.lru_cache(maxsize=256)
def _called(distribution: metadata.Distribution) -> str:
    """Its file is parsed once; the distribution is kept, so that no other one is taken for it."""
    return distribution.name


def singular(kind: str) -> str:
    """One of a kind: `attacks` is `attack`."""
    names = {
        "strategies": "strategy",
        "staleness": "staleness weight",
        "datasets": "data set",
        "adversaries": "adversary",
    }
    return names.get(kind, kind[:-1].replace("_", " "))
