"""What is to be tried on an app, in words: `dp-sgd,dropout,no-bias`, `clipping:clip=0.1`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlab import plugins
from fedlab.audit import Defense
from fedlab.errors import PluginError, Problem, ScenarioError, UnknownName, UsageError
from fedlab.experiment.asked import assigned, divided, labelled

SHORT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dropout": ("architecture", {"dropout": 0.5}),
    "no-bias": ("architecture", {"first_bias": False}),
}
"""Names for what is asked for often."""
AS_IT_IS = "none"
"""The defense of an app that is audited as it is."""
_NAME = re.compile(r"\s*[A-Za-z][\w.-]*\s*(:|$)")


@dataclass(frozen=True)
class Wish:
    """A defense that is to be tried; `label` is what the run calls it."""

    label: str
    name: str
    params: Mapping[str, Any]

    @property
    def entry(self) -> dict[str, Any]:
        """As an entry of `[[defenses]]`."""
        return {"name": self.name, "label": self.label, **self.params}

    def built(self) -> Defense:
        """The defense.

        Raises:
            UsageError: its parameters cannot be.
            PluginError: it is no defense.
        """
        made = plugins.build("defenses", {"name": self.name, **self.params})
        if not isinstance(made, Defense):
            raise PluginError(
                f"the defense {self.name!r} (from {plugins.provider('defenses', self.name)}) is a"
                f" {type(made).__name__}; expected a subclass of fedlab.audit.Defense"
            )
        return made


def wishes(texts: Sequence[str], check: Callable[[Wish], None] = lambda wish: None) -> list[Wish]:
    """What `--try` asks for, in order; a defense without parameters gets those of its example.

    Args:
        texts: each `NAME`, `NAME:key=value,...`, or several of them, divided by commas.
        check: raises a UsageError where one cannot be.

    Raises:
        UsageError: every mistake at once.
    """
    found: list[Wish] = []
    mistakes: list[str] = []
    words = [word for text in texts for word in _divided(text)]
    for word in words:
        if word.strip() == AS_IT_IS:
            continue
        try:
            wish = _wish(word, {one.label for one in found} | {AS_IT_IS})
            check(wish)
        except ScenarioError as error:
            mistakes.append(f"{word}: {'; '.join(map(_told, error.problems))}")
        except UsageError as error:
            mistakes.append(f"{word}: {error}")
        else:
            found.append(wish)
    if words and not found and not mistakes:
        mistakes.append(f"{AS_IT_IS}: the app as it is is audited in any case; name a defense to try on it")
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"
        raise UsageError("\n".join([f"--try: {count}", *(f"  {one}" for one in mistakes)]))
    return found


def _told(problem: Problem) -> str:
    """Without the place in a scenario that nobody wrote, but for the parameter."""
    parameter = ".".join(problem.place.split(".")[2:])
    return f"{parameter}: {problem.message}" if parameter else problem.message


def _divided(text: str) -> list[str]:
    """At the commas in front of names; those in front of parameters stay.

    >>> _divided("dropout,dp-sgd:noise_multiplier=1,max_grad_norm=2,no-bias")
    ['dropout', 'dp-sgd:noise_multiplier=1,max_grad_norm=2', 'no-bias']
    """
    found: list[str] = []
    for part in divided(text):
        if _NAME.match(part) or not found:
            found.append(part)
        else:
            found[-1] += f",{part}"
    return found


def _wish(word: str, taken: set[str]) -> Wish:
    name, _, rest = word.partition(":")
    name, given = name.strip(), assigned(rest, f"--try {word}")
    if "name" in given:
        raise UsageError("name stands in front of the colon, and is no parameter")
    known = plugins.names("defenses")
    if name in SHORT and name not in known:
        plugin, own = SHORT[name]
        return Wish(labelled(name, given, taken), plugin, {**own, **given})
    if name not in known:
        raise UnknownName("defense", name, {*known, *SHORT} - {AS_IT_IS})
    params = given or dict(getattr(plugins.load("defenses", name), "example", {}))
    return Wish(labelled(name, params, taken), name, params)
