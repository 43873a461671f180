"""What one key of a scenario demands of another.

The rules read the tables as they came, and pass over what is not well typed, so that a mistake in one
place hides none in another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fedlab.scenario import device_rules, threats
from fedlab.scenario.given import Mistake, is_count, is_number, table
from fedlab.scenario.schema import Scenario, Stragglers
from fedlab.scenario.variants import across, merged


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """All broken rules, each with the path that should change."""
    checks = (_exclusive, _adversaries, _runtime, _nameless, _twice)
    found = [mistake for check in checks for mistake in check(data)] + device_rules.mistakes(data)
    for check in (_cohort, _stragglers, _target, _audit):
        found += across(data, check)
    return found


def _exclusive(data: dict[str, Any]) -> Iterator[Mistake]:
    if "seed" in data and "seeds" in data:
        yield ("seed",), "seed and seeds are both given; expected one of them"
    clients = table(data, "clients")
    if "local_steps" in clients and "local_epochs" in clients:
        yield (
            ("clients", "local_steps"),
            "local_steps and local_epochs are both given; expected one: a number of steps per round, or of"
            " passes over the client's records",
        )

    if "local_steps" in clients and "stragglers" in clients:
        yield (
            ("clients", "stragglers"),
            "stragglers get through some of their epochs, but local_steps is given; expected local_epochs",
        )


def _cohort(data: dict[str, Any]) -> Iterator[Mistake]:
    count, strategy = _count(data, "clients", "count"), table(data, "strategy")
    cohort = strategy.get("cohort", count)
    if count is None or not is_count(cohort):
        return
    if cohort > count:
        yield (
            ("strategy", "cohort"),
            f"got {cohort}; expected at most {count}, the number of clients (clients.count)",
        )
        return
    quorum, factor = strategy.get("quorum"), strategy.get("over_selection")
    if is_count(quorum) and quorum > cohort:
        yield (
            ("strategy", "quorum"),
            f"got {quorum}; expected at most {cohort}, the replies that a round waits for (strategy.cohort)",
        )
    if is_number(factor) and cohort * factor > count * (1 + 1e-9):
        yield (
            ("strategy", "over_selection"),
            f"got {factor}; {factor} times a cohort of {cohort} is more than {count}, the number of clients;"
            f" expected at most {math.floor(100 * count / cohort) / 100:g}, or a smaller cohort",
        )


def _stragglers(data: dict[str, Any]) -> Iterator[Mistake]:
    clients = table(data, "clients")
    given, epochs = clients.get("stragglers"), clients.get("local_epochs", 1)
    if not isinstance(given, dict) or "local_steps" in clients:
        return
    if given.get("partial", True) is True and epochs == 1:
        yield (
            ("clients", "stragglers"),
            "stragglers do fewer epochs than the others, but those do 1; raise clients.local_epochs, or leave"
            " stragglers out of the round (partial = false)",
        )
    cohort = table(data, "strategy").get("cohort", _count(data, "clients", "count"))
    fraction = given.get("fraction", Stragglers.model_fields["fraction"].default)
    if given.get("partial") is False and is_count(cohort) and is_number(fraction) and fraction <= 1:
        if round((1 - fraction) * cohort) == 0:
            yield (
                ("clients", "stragglers", "fraction"),
                f"got {fraction}; of a cohort of {cohort} nobody is left; lower it, or count what stragglers"
                " get done (partial = true)",
            )


def _target(data: dict[str, Any]) -> Iterator[Mistake]:
    strategy = table(data, "strategy")
    target, every = strategy.get("target"), strategy.get("evaluate_every")
    rounds = _count(data, "strategy", "rounds")
    if not isinstance(target, dict):
        return
    if ("accuracy" in target) == ("loss" in target):
        yield (
            ("strategy", "target"),
            "expected either accuracy, a share of the test records, or loss, and not both",
        )
    if every is None:
        yield (
            ("strategy", "evaluate_every"),
            "missing; a target is looked for at evaluations, and without this key there is one only at the"
            " end; expected a number of rounds, as in evaluate_every = 5",
        )
    elif is_count(every) and rounds is not None and every > rounds:
        yield (
            ("strategy", "evaluate_every"),
            f"got {every}; expected at most {rounds}, the number of rounds (strategy.rounds), for a target to"
            " be looked for before the end",
        )


def _adversaries(data: dict[str, Any]) -> Iterator[Mistake]:
    count, taken = _count(data, "clients", "count"), 0
    named: list[int] = []
    given = data.get("adversaries")
    for index, item in enumerate(given if isinstance(given, list) else []):
        if not isinstance(item, dict):
            continue
        fraction, clients = item.get("fraction"), item.get("clients")
        if (fraction is None) == (clients is None):
            yield (
                ("adversaries", index),
                "expected either fraction, a share of the clients, or clients, a list of their numbers",
            )
        if isinstance(clients, list) and count is not None:
            strangers = [one for one in clients if isinstance(one, int) and one >= count]
            if strangers:
                yield (
                    ("adversaries", index, "clients"),
                    f"got {', '.join(map(str, strangers))}; expected numbers below {count} (clients.count)",
                )
            taken += len(clients)
            named += [one for one in clients if isinstance(one, int)]
        elif is_number(fraction) and fraction <= 1 and count is not None:
            taken += round(fraction * count)
    twice = [str(one) for one, times in Counter(named).items() if times > 1]
    if twice:
        yield ("adversaries",), f"client {', '.join(twice)} is named twice; expected each once"
    if count is not None and taken > count:
        yield (
            ("adversaries",),
            f"{taken} adversaries, but there are {count} clients (clients.count); lower the fractions",
        )


def _runtime(data: dict[str, Any]) -> Iterator[Mistake]:
    runtime = table(data, "runtime")
    gpus, address = runtime.get("num_gpus"), runtime.get("address")
    if is_number(gpus) and gpus > 1 and gpus != int(gpus):
        yield ("runtime", "num_gpus"), f"got {gpus}; expected a fraction up to 1, or a whole number"
    if isinstance(address, str) and address != "auto":
        host, _, port = address.rpartition(":")
        known = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
        if not host or "/" in host or not known:
            yield (
                ("runtime", "address"),
                f'got "{address}"; expected "auto" or "host:port" (no ray:// address)',
            )

    if runtime.get("working_dir") is not None and address is None:
        yield (
            ("runtime", "working_dir"),
            "runtime.address is missing; expected both: a folder is sent to workers on a cluster, those on"
            " this machine import whatever you can",
        )


def _audit(data: dict[str, Any]) -> Iterator[Mistake]:
    audit = table(data, "audit")
    observed = audit.get("rounds", [1])
    if not isinstance(observed, list) or not observed or not all(map(is_count, observed)):
        return
    rounds = _count(data, "strategy", "rounds")
    beyond = [one for one in observed if rounds is not None and one > rounds]
    if beyond:
        yield (
            ("audit", "rounds"),
            f"round {', '.join(map(str, beyond))} never happens; expected rounds from 1 to {rounds}"
            " (strategy.rounds)",
        )
    cohort = table(data, "strategy").get("cohort", _count(data, "clients", "count"))
    victims = audit.get("victims")
    if not beyond and is_count(victims) and is_count(cohort):
        possible = cohort * len(set(observed))
        if victims > possible:
            yield (
                ("audit", "victims"),
                f"got {victims}; expected at most {possible}: {cohort} clients per round times"
                f" {len(set(observed))} observed rounds; observe more rounds, or take fewer victims",
            )


def _nameless(data: dict[str, Any]) -> Iterator[Mistake]:
    """An entry of [[threats]] that files could not be named after."""
    for index, item in enumerate(threats.merged(data)):
        if isinstance(item, dict) and "label" not in item:
            yield (
                ("threats", index),
                'expected a label, as in label = "blind", or a level, as in level = "oracle"',
            )


def _twice(data: dict[str, Any]) -> Iterator[Mistake]:
    """Labels name files, so they differ; a seed, a mode or a round given twice is a slip."""
    filled = {"strategies": merged, "threats": threats.merged}
    for key in ("attacks", "defenses", "adversaries", "strategies", "threats"):
        seen: set[str] = set()
        items = filled[key](data) if key in filled else data.get(key)
        for index, item in enumerate(items if isinstance(items, list) else []):
            label = item.get("label", item.get("name")) if isinstance(item, dict) else None
            if isinstance(label, str):
                if label in seen:
                    yield (
                        (key, index),
                        f'there is already one labelled "{label}"; give this one a label of its own,'
                        f' as in label = "{label}-2"',
                    )
                seen.add(label)
    yield from _ambiguous(data)
    for path in (("seeds",), ("clients", "mode"), ("audit", "rounds")):
        values: Any = data
        for part in path:
            values = values.get(part) if isinstance(values, dict) else None
        if isinstance(values, list):
            repeated = [value for value, times in Counter(map(repr, values)).items() if times > 1]
            if repeated:
                yield path, f"{', '.join(repeated)} is given twice; expected each once"


def _ambiguous(data: dict[str, Any]) -> Iterator[Mistake]:
    """Strategies "a" and "a-b" with defenses "b-c" and "c" would make two models of one name."""
    defenses = data.get("defenses")
    listed = [one for one in defenses if isinstance(one, dict)] if isinstance(defenses, list) else []
    names = {str(one.get("label", one.get("name"))) for one in listed}
    seen: dict[str, object] = {}
    for index, item in enumerate(merged(data)):
        label = item.get("label") if isinstance(item, dict) else None
        for joint in sorted(f"{label}-{name}" for name in names):
            if seen.setdefault(joint, label) != label:
                yield (
                    ("strategies", index, "label"),
                    f'"{joint}" would be two models: its label "{label}" and that of the strategy'
                    f' "{seen[joint]}" both fit a defense; give this one another label',
                )


def _count(data: dict[str, Any], section: str, key: str) -> int | None:
    """The number, or its default, or None where something else stands."""
    default = getattr(getattr(Scenario.model_fields[section], "default", None), key)
    value = table(data, section).get(key, default)
    return value if is_count(value) else None
