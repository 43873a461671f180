"""Which keys of a scenario name plugins, and whether names and parameters fit what is installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from fedlab import plugins, signature
from fedlab.errors import FedlabError, UnknownName
from fedlab.scenario import trial
from fedlab.scenario.device_trials import spread_paths, traces
from fedlab.scenario.given import Mistake, is_count, table
from fedlab.scenario.places import Path
from fedlab.scenario.sections import as_table
from fedlab.scenario.variants import NAMED, across, entries
from fedlab.signature import Parameter

KINDS: dict[Path, str] = {
    ("task", "dataset"): "datasets",
    ("task", "model"): "models",
    ("clients", "partition"): "partitions",
    ("devices", "time"): "times",
    ("devices", "per_example"): "times",
    ("strategy", "local_rule"): "local_rules",
    ("strategy", "sampling"): "samplers",
    ("strategy", "pre_aggregation"): "preaggregators",
    ("strategy", "aggregator"): "aggregators",
    ("strategy", "server_optimizer"): "server_optimizers",
    ("attacks",): "attacks",
    ("defenses",): "defenses",
    ("adversaries",): "adversaries",
}
"""Path -> kind of the plugin that stands there; below a path of one part, one plugin per element."""

LISTS = tuple(path[0] for path in KINDS if len(path) == 1)

OWN_KEYS = {"attacks": {"name", "label"}, "defenses": {"name", "label"}} | {
    "adversaries": {"name", "label", "fraction", "clients"}
}
"""Keys of a list's elements beside the plugins' parameters."""

UNNAMED: dict[Path, str] = {("strategy", "server_optimizer"): "sgd"}
"""Where a table may do without a name, and what it then stands for."""

NESTED = {"staleness": "staleness"}
"""Options of strategies that are plugins themselves, and their kinds."""

CHEAP = (*LISTS, "strategy")
"""Tables whose plugins cost nothing to make, so that their constructors are asked about their ranges."""


CLOSED = {"partitions": "partition", "times": "computing time"}
"""Kinds that other packages cannot add to, and what one of them is called."""


def closed(kind: str) -> dict[str, Callable[..., Any]]:
    """Name -> function or class of the ways to share out records, or of the spreads of computing times."""
    if kind == "times":
        from fedlab.runtime.times import TIMES

        return dict(TIMES)
    from fedlab.tasks.partition import PARTITIONS

    return dict(PARTITIONS)


def closed_parameters(kind: str, name: str) -> list[Parameter]:
    """The knobs of one of them, without what fedlab passes itself (records, clients, generator).

    Raises:
        UnknownName: there is none of that name.
    """
    known = closed(kind)
    if name not in known:
        raise UnknownName(CLOSED[kind], name, known)
    given = 2 if kind == "partitions" else 0
    return [item for item in signature.parameters(known[name], given) if item.name != "generator"]


def parameters_at(path: Path, name: str) -> list[Parameter]:
    """The parameters of the plugin `name` that stands at a path of the scenario."""
    kind = _kind_at(path)
    return closed_parameters(kind, name) if kind in CLOSED else plugins.parameters(kind, name)


def _kind_at(path: Path) -> str:
    return KINDS[path[:1] if path[0] in LISTS else _shared(path)[:2]]


def _shared(path: Path) -> Path:
    """Where in `[strategy]` that would stand which stands in an entry of `[[strategies]]`, and likewise."""
    if path[0] == "tasks":
        return ("clients" if path[2:3] == ("partition",) else "task", *path[2:])
    if path[:2] == ("devices", "classes"):
        return ("devices", *path[3:])
    return ("strategy", *path[2:]) if path[0] == "strategies" else path


def mistakes(data: dict[str, Any]) -> list[tuple[Path, str]]:
    """What is wrong with the plugins of a scenario, whatever else may be wrong with it."""
    found: list[tuple[Path, str]] = []
    sound: list[tuple[Path, str, dict[str, Any]]] = []
    for path, name_path, item in _places(data):
        own = OWN_KEYS.get(str(path[0]), {"name"})
        name = item["name"]
        params = {key: value for key, value in item.items() if key not in own}
        try:
            faults = signature.fit(parameters_at(path, name), params)[1]
        except FedlabError as error:
            found.append((name_path, str(error)))
            continue
        found += [((*path, key), text) for key, text in faults if not infinite(params.get(key))]
        refused = []
        if not faults and _shared(path)[0] in CHEAP:
            refused = [(path, text) for text in _refusal(_kind_at(path), name, params)]
        found += refused
        if not faults and not refused:
            sound.append((path, name, params))
    return [*found, *_trials(sound, data), *across(data, _strategy), *across(data, _combining)]


def _strategy(data: dict[str, Any]) -> Iterator[Mistake]:
    """An unknown strategy, and options that it does not have, or has otherwise."""
    strategy = table(data, "strategy")
    name, options = strategy.get("name", NAMED), strategy.get("options", {})
    if not isinstance(name, str) or not isinstance(options, dict):
        return
    try:
        known = plugins.parameters("strategies", name)
    except FedlabError as error:
        yield ("strategy", "name"), str(error)
        return
    faults: list[Mistake] = [
        (("strategy", "options", key), text) for key, text in signature.fit(known, options)[1]
    ]
    nested = {key: NESTED[key] for key in options if key in NESTED and key in {one.name for one in known}}
    for key, kind in nested.items():
        faults += [(("strategy", "options", *path), text) for path, text in _inside(key, kind, options[key])]
    yield from (fault for fault in faults if not infinite(_at(data, fault[0])))
    if not faults and "tasks" not in data:
        yield from _assembled(data, name)


def _assembled(data: dict[str, Any], name: str) -> Iterator[Mistake]:
    """What a strategy refuses of the parts that it is to work with, all of which are sound by themselves."""
    strategy = table(data, "strategy")
    cohort = strategy.get("cohort", table(data, "clients").get("count", 10))
    parts: dict[str, Any] = {
        "aggregator": as_table(strategy.get("aggregator", "weighted-mean")),
        "server_optimizer": as_table(strategy.get("server_optimizer", "sgd")),
        "sampling": as_table(strategy.get("sampling", "uniform")),
        "local_rule": as_table(strategy.get("local_rule", "fedavg")),
    }
    if not is_count(cohort) or not all(isinstance(one, dict) for one in parts.values()):
        return
    parts["server_optimizer"] = {"name": "sgd", **parts["server_optimizer"]}
    settings = {**strategy, **parts, "name": name, "options": strategy.get("options", {})}
    for path, text in trial.strategy(settings, cohort):
        yield ("strategy", *path), text


def _inside(key: str, kind: str, given: Any) -> Iterator[Mistake]:
    """What is wrong with a plugin that is an option of another, given by name or as a table."""
    item = as_table(given)
    if not isinstance(item, dict):
        return
    if not isinstance(item.get("name"), str):
        yield (key, "name"), f"missing; expected one of {', '.join(plugins.names(kind))}"
        return
    params = {one: value for one, value in item.items() if one != "name"}
    try:
        faults = signature.fit(plugins.parameters(kind, item["name"]), params)[1]
    except FedlabError as error:
        yield (key, "name") if isinstance(given, dict) else (key,), str(error)
        return
    yield from (((key, one), text) for one, text in faults)
    if not faults:
        yield from (((key,), text) for text in _refusal(kind, item["name"], params))


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def infinite(value: object) -> bool:
    """Whether a value is a NaN or an infinity: no key of a scenario takes one."""
    return isinstance(value, float) and not math.isfinite(value)


def _refusal(kind: str, name: str, params: dict[str, Any]) -> list[str]:
    """Ranges are known to a plugin's constructor only."""
    try:
        plugins.build(kind, {**params, "name": name})
    except FedlabError as error:
        return [str(error)]
    except (Exception, SystemExit) as error:  # a stranger's constructor may raise anything
        return [f"{name} refuses its parameters: {type(error).__name__}: {error}"]
    return []


def _trials(sound: list[tuple[Path, str, dict[str, Any]]], data: dict[str, Any]) -> list[tuple[Path, str]]:
    """What the plugins refuse whose parameters are otherwise sound, tried together as a run does."""
    by_path = {path: (name, params) for path, name, params in sound}
    found: list[tuple[Path, trial.Fault]] = []
    here: Path = ("task", "dataset")
    dataset, train = None, None
    if here in by_path:
        dataset = by_path[here][0]
        train, faults = trial.dataset(*by_path[here])
        found += [(here, fault) for fault in faults]
    here = ("clients", "partition")
    clients = data.get("clients")
    count = clients.get("count", 10) if isinstance(clients, dict) else 10
    name, params = by_path.get(here, ("iid", {}))
    if here in by_path or "partition" not in (clients if isinstance(clients, dict) else {}):
        found += [
            (here, fault) for fault in trial.partition(closed("partitions")[name], params, train, count)
        ]
    here = ("task", "model")
    if here in by_path:
        model = by_path[here]
        faults = trial.network(dataset, *model)
        found += [(here, fault) for fault in faults]
        if not faults:
            found += _defended(dataset, model, sound)
    told = clients if isinstance(clients, dict) else {}
    for here, rule in by_path.items():
        if _shared(here) == ("strategy", "local_rule"):
            found += [(here, fault) for fault in trial.local_rule(*rule, told)]
    for here, (name, params) in by_path.items():
        if here[0] == "devices":
            found += [(here, fault) for fault in trial.time(closed("times")[name], params)]
    found += [(here, ((), text)) for here, text in traces(data)]
    return [((*path, *key), text) for path, (key, text) in found]


def _combining(data: dict[str, Any]) -> Iterator[Mistake]:
    """A cohort that is too small for the aggregator, or becomes so by the stragglers that are left out."""
    strategy, clients = (data.get(key, {}) for key in ("strategy", "clients"))
    if not isinstance(strategy, dict) or not isinstance(clients, dict):
        return
    aggregator = as_table(strategy.get("aggregator", "weighted-mean"))
    before = as_table(strategy.get("pre_aggregation"))
    cohort, absent = strategy.get("cohort", clients.get("count", 10)), 0.0
    stragglers = clients.get("stragglers")
    if isinstance(stragglers, dict) and stragglers.get("partial") is False:
        absent = stragglers.get("fraction", 0.5)
    if not isinstance(aggregator, dict) or not isinstance(before, dict | None) or not is_count(cohort):
        return
    if type(absent) not in (int, float) or not 0 <= absent <= 1 or round((1 - absent) * cohort) == 0:
        return  # told already
    if text := trial.cohort(cohort, aggregator, before, absent):
        yield ("strategy", "aggregator" if "aggregator" in strategy else "pre_aggregation"), text


def _defended(
    dataset: str | None, model: tuple[str, dict[str, Any]], sound: list[tuple[Path, str, dict[str, Any]]]
) -> list[tuple[Path, trial.Fault]]:
    """What goes wrong when a defense changes the model: a knob that it lacks, a layer that is refused."""
    found: list[tuple[Path, trial.Fault]] = []
    for path, name, params in sound:
        if path[0] != "defenses" or model[0] == trial.OWN:
            continue
        faults: list[trial.Fault] = []
        if (name, plugins.provider("defenses", name)) == ("architecture", plugins.HOME):
            known = plugins.parameters("models", model[0])
            knobs = {item.name for item in known} & set(params)  # it says itself which ones there are not
            told = signature.fit(known, {**model[1], **{key: params[key] for key in knobs}})[1]
            faults = [((key,), text) for key, text in told if key in knobs]
        change = getattr(plugins.build("defenses", {**params, "name": name}), "network", None)
        if not faults and callable(change):
            faults = trial.network(dataset, *model, change, params)
        found += [(path, fault) for fault in faults]
    return found


def _places(data: dict[str, Any]) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
    """(path, path of the name, table with a name) of every plugin whose name can be read at all."""
    for path in (*KINDS, *_variants(data)):
        here: Any = data
        for part in path:
            inside = here.get(part) if isinstance(here, dict) else None
            here = here[part] if isinstance(here, list) and isinstance(part, int) else inside
        if isinstance(here, str) and len(path) > 1:
            yield path, path, {"name": here}
        found: list[tuple[Path, Any]] = [(path, here)]
        if len(path) == 1:
            found = [
                ((*path, index), item) for index, item in enumerate(here if isinstance(here, list) else [])
            ]
        for place, item in found:
            if _shared(path) in UNNAMED and isinstance(item, dict):
                item = {"name": UNNAMED[_shared(path)], **item}
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                yield place, (*place, "name"), item


def _variants(data: dict[str, Any]) -> Iterator[Path]:
    """Where the entries of `[[strategies]]` and of `[[devices.classes]]` may name plugins."""
    yield from (path for path in spread_paths(data) if path not in KINDS)
    keys = [path[1] for path in KINDS if path[0] == "strategy"]
    yield from (("strategies", index, key) for index, _ in enumerate(entries(data)) for key in keys)
