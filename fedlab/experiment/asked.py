"""What is asked of a finished run, in words: `linear-layer`, `dropout-inversion:iterations=100`, `oracle`,
`labels=true,batch_size=false`, `unaware`, `each`.

Words become entries of `[[attacks]]` and `[[threats]]`, whose mistakes the scenario's own check tells.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from fedlab.errors import Problem, ScenarioError, UnknownName, UsageError
from fedlab.experiment.pairing import UNAWARE
from fedlab.ladder import DENIED, LADDER
from fedlab.scenario import Scenario
from fedlab.scenario.schema import Threat
from fedlab.scenario.threats import over

EACH = "each"
Wish = str | Mapping[str, Any]


def attack_entry(
    wish: Wish, scenario: Scenario, added: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """An entry of `[[attacks]]`; that of the scenario where it has the same attack with the same parameters.

    Args:
        wish: `NAME`, `NAME:key=value,...`, or a table.
        added: plugins by label of attacks with default parameters that the audit ran on some cells.

    Raises:
        UsageError: no name, or a parameter without a value.
    """
    if isinstance(wish, str):
        name, _, rest = wish.partition(":")
        entry = {"name": name.strip(), **assigned(rest, f"--attack {wish}")}
    else:
        entry = dict(wish)
    if not entry.get("name") or not isinstance(entry["name"], str):
        raise UsageError(f"attack {wish!r}; expected NAME or NAME:key=value,..., as in linear-layer")
    params = {key: value for key, value in entry.items() if key not in ("name", "label")}
    for known in scenario.attacks:
        same = (known.name, known.params) == (entry["name"], params)
        if same and entry.get("label", known.label) == known.label:
            return {"name": known.name, "label": known.label, **params}
    for label, name in added.items():
        if not params and name == entry["name"] and entry.get("label", label) == label:
            return {"name": name, "label": label}
    taken = {known.label for known in scenario.attacks} | set(added)
    return {"label": labelled(entry["name"], params, taken), **entry}


def threat_entries(wish: Wish, scenario: Scenario) -> list[dict[str, Any]]:
    """Entries of `[[threats]]`: one, or of `each` one per piece of knowledge, given or taken away.

    Args:
        wish: a level or one of the scenario's labels, and keys of `[threat]`, divided by commas; `unaware`
            (of the defense); `each`; or a table.

    Raises:
        UnknownName: no such level or label.
        UsageError: a key without a value, or a label that is no name.
    """
    if wish == EACH:
        base = scenario.threat
        return [threat_entry({key: not getattr(base, key)}, scenario) for key in DENIED]
    if not isinstance(wish, str):
        return [threat_entry(dict(wish), scenario)]
    if wish == UNAWARE and UNAWARE not in scenario.assumed:
        return [threat_entry({"label": UNAWARE, "defense": False}, scenario)]
    first, comma, rest = wish.partition(",")
    start: dict[str, Any] = {}
    if "=" not in first:
        if first in scenario.assumed and not comma:
            return [{"label": first}]
        if first not in LADDER:
            raise UnknownName("threat", first, {*LADDER, EACH, UNAWARE, *filter(None, scenario.assumed)})
        start, wish = {"level": first}, rest
    given = assigned(wish, f"--threat {wish}")
    if not isinstance(given.get("label", ""), str):
        told = 'no name for the threat. Did you mean "labels", the knowledge?'
        raise ScenarioError(f"--threat {wish}", [Problem("label", told)])
    return [threat_entry(start | given, scenario)]


def threat_entry(entry: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """The entry under a label; only a label where the scenario assumes just that ("" for `[threat]`)."""
    whole = over(scenario.threat.model_dump(), entry)
    whole.pop("label", None)
    try:
        meant = _content(Threat.model_validate(whole))
    except ValidationError:  # told in the scenario's own words
        meant = None
    for label, known in scenario.assumed.items():
        if _content(known) == meant and entry.get("label", label) == label:
            return {"label": label}
    words = _words({key: value for key, value in entry.items() if key not in ("level", "label")})
    named = _label([str(entry.get("level", "")), *words]) or "again"
    return {"label": _free(named, set(scenario.assumed)), **entry}


@contextmanager
def blamed(kind: str, wish: Wish) -> Iterator[None]:
    """Mistakes of a wish are told of the wish, not of a place in a scenario that nobody wrote.

    Args:
        kind: "attack" or "threat".
    """
    try:
        yield
    except ScenarioError as error:
        source = f"--{kind} {wish}" if isinstance(wish, str) else f"{kind} {wish!r}"
        places = [re.sub(rf"^{kind}s\.\d+\.?", "", one.place) or kind for one in error.problems]
        raise ScenarioError(
            source,
            [Problem(place, one.message) for place, one in zip(places, error.problems, strict=True)],
        ) from error


def moot(threat: Threat, base: Threat, *, dropout: bool, batch_norm: bool, defended: bool = True) -> bool:
    """Whether a threat differs from the base in nothing that this network, or its defense, has to know."""
    void = {"level"} | (set() if dropout else {"dropout_rate", "dropout_masks"})
    void |= set() if batch_norm else {"batch_norm_buffers"}
    void |= set() if defended else {"defense"}
    return threat.model_dump(exclude=void) == base.model_dump(exclude=void)


def _content(threat: Threat) -> dict[str, Any]:
    return threat.model_dump(exclude={"level"})


def labelled(name: str, params: Mapping[str, Any], taken: Collection[str]) -> str:
    """What to call a plugin with these parameters: its name, with the parameters where that is taken."""
    return _free(name if name not in taken else _label([name, *_words(params)]), taken)


def divided(text: str) -> list[str]:
    """At the commas that stand in no bracket and no quotes.

    >>> divided("a=1, b=[2, 3]")
    ['a=1', 'b=[2, 3]']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter in "\"'" and quote in ("", letter):
            quote = "" if quote else letter
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def assigned(text: str, where: str) -> dict[str, Any]:
    """`a=1,b=[2, 3]` as a table; values are TOML, and what is none is text."""
    found: dict[str, Any] = {}
    for item in filter(None, divided(text)):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{where}: {item!r}; expected key=value, several divided by commas")
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}\n")["value"]
        except ValueError:
            found[key.strip()] = value.strip()
    return found


def _words(params: Mapping[str, Any]) -> list[str]:
    """with-labels, without-batch-size, iterations-100"""
    switch = {True: "with-", False: "without-"}
    return [
        switch[value] + key.removesuffix("_known") if isinstance(value, bool) else f"{key}-{value}"
        for key, value in params.items()
    ]


def _label(words: list[str]) -> str:
    text = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(filter(None, words)))
    return text[:56].strip("-.")


def _free(label: str, taken: Collection[str]) -> str:
    number, found = 2, label
    while found in taken:
        number, found = number + 1, f"{label}-{number}"
    return found
