"""Whether the gates of a scenario can be read, and name what its run will have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedlab import plugins
from fedlab.errors import BadGate, FedlabError
from fedlab.gate import parse
from fedlab.scenario import threats, variants
from fedlab.scenario.given import Mistake, table
from fedlab.scenario.schema import Audit, Clients

UNAWARE = "unaware"
"""The threat under which adaptive attacks are run once more."""


def mistakes(data: dict[str, Any]) -> Iterator[Mistake]:
    """What is wrong with `audit.fail_on`; passes over what is not well typed."""
    given = table(data, "audit").get("fail_on")
    listed = [given] if isinstance(given, str) else given
    known: dict[str, list[str]] | None = None
    for index, text in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(text, str):
            try:
                gate = parse(text)
                known = known_names(data) if known is None else known
                gate.check(known)
            except BadGate as error:
                start, end = error.span
                where = f' (at "{text[start:end]}")' if text[start:end].strip() else " (at its end)"
                path = ("audit", "fail_on") if isinstance(given, str) else ("audit", "fail_on", index)
                yield path, f"{error.problem}{where}"


def known_names(data: dict[str, Any]) -> dict[str, list[str]]:
    """What the rows of the run will be called."""
    attacks, defenses = _entries(data, "attacks"), _entries(data, "defenses")
    plugin = {label: str(one["name"]) for label, one in attacks.items()}
    labels = [str(one.get("label")) for one in threats.merged(data) if isinstance(one, dict)]
    if attacks and _adaptive(data):  # the attacks that an audit adds, and how it calls them
        added = dict.fromkeys(name for one in defenses.values() for name in _knowing(one))
        for name in added:
            if name not in plugin.values():
                plugin[name if name not in plugin else f"{name}-adaptive"] = name
        labels.append(UNAWARE)
    membership = [label for label, name in plugin.items() if _is_membership(name)]
    mode = table(data, "clients").get("mode", Clients().mode)
    seeds = data["seeds"] if isinstance(data.get("seeds"), list) else [data.get("seed", 0)]
    return {
        "attack": [label for label in plugin if label not in membership],
        "membership": membership,
        "defense": list(defenses) or ["none"],
        "mode": [mode] if isinstance(mode, str) else [str(one) for one in mode],
        "strategy": [str(one["label"]) for one in variants.merged(data) if isinstance(one, dict)],
        "threat": list(dict.fromkeys(["", *labels])),
        "seed": [str(seed) for seed in seeds],
    }


def _entries(data: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The entries of a list by their labels."""
    listed = data.get(key)
    return {
        str(one.get("label", one["name"])): one
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and "name" in one
    }


def _adaptive(data: dict[str, Any]) -> bool:
    """Whether attackers who know the defense are tried beside those who do not."""
    threat = table(data, "threat")
    knows = threat.get("defense", threats.level(threat).get("defense", True))
    return bool(knows) and table(data, "audit").get("adaptive", Audit().adaptive) is True


def _knowing(defense: dict[str, Any]) -> tuple[str, ...]:
    """The attacks that know a defense; none of one that cannot be made, which is told elsewhere."""
    params = {key: value for key, value in defense.items() if key != "label"}
    try:
        return tuple(plugins.build("defenses", params).adaptive)
    except Exception:  # a stranger's constructor may raise anything
        return ()


def _is_membership(attack: str) -> bool:
    from fedlab.audit.membership import MembershipAttack

    try:
        plugin = plugins.load("attacks", attack)
    except FedlabError:
        return False
    return isinstance(plugin, type) and issubclass(plugin, MembershipAttack)
