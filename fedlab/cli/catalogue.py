"""Everything that has a name in fedlab, and what can be said about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedlab import plugins
from fedlab.errors import FedlabError, UnknownName
from fedlab.signature import REQUIRED, REST, Parameter, shown

CLOSED = ("partitions", "times")
"""Kinds that other packages cannot add to."""

KINDS = (*plugins.KINDS, *CLOSED, "scenarios")

_ALIASES = {
    **{kind.removesuffix("s"): kind for kind in KINDS if kind != "staleness"},
    **{"strategy": "strategies", "data": "datasets", "data_sets": "datasets", "defences": "defenses"},
    **{"adversary": "adversaries", "rule": "local_rules", "rules": "local_rules"},
    **{"optimizer": "server_optimizers", "optimizers": "server_optimizers"},
    **{"pre_aggregator": "preaggregators", "pre_aggregators": "preaggregators"},
}


@dataclass(frozen=True)
class Entry:
    """A plugin, a partition, a spread of computing times or a shipped scenario.

    `adaptive` names the attacks that know a defense; `broken` says why a plugin cannot be used; `example`
    holds parameters without which it cannot be, though none is required by itself.
    """

    kind: str
    name: str
    provider: str
    text: str = ""
    paper: str = ""
    needs: list[str] = field(default_factory=list)
    server: str = ""
    adaptive: list[str] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    example: dict[str, Any] = field(default_factory=dict)
    broken: str = ""

    @property
    def summary(self) -> str:
        """The first paragraph."""
        return self.text.split("\n\n")[0]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "provider": self.provider,
            "summary": self.summary,
            "paper": self.paper,
            "needs": self.needs,
            "server": self.server,
            "adaptive": self.adaptive,
            "parameters": [
                {
                    "name": item.name,
                    "type": item.type_name,
                    "range": item.range,
                    "required": item.default is REQUIRED,
                    "default": None if item.default is REQUIRED else item.default,
                    "doc": item.doc,
                }
                for item in self.parameters
                if item.name != REST
            ],
            "broken": self.broken,
        }


def kind_of(word: str) -> str:
    """The kind that a word means: `attack` is `attacks`.

    Raises:
        UnknownName: no kind is called so.
    """
    word = word.lower().replace("-", "_")
    kind = _ALIASES.get(word, word)
    if kind not in KINDS:
        raise UnknownName("kind", word, KINDS)
    return kind


def names(kind: str) -> list[str]:
    """All names of a kind; of plugins, none is imported."""
    if kind == "scenarios":
        from fedlab.scenario.source import shipped

        return sorted(shipped())
    if kind in CLOSED:
        from fedlab.scenario.plugged import closed

        return sorted(closed(kind))
    return plugins.names(kind)


def entry(kind: str, name: str) -> Entry:
    """What can be said about one of them. A plugin that does not load is an entry all the same."""
    if kind == "scenarios":
        return _scenario(name)
    if kind in CLOSED:
        from fedlab.scenario.plugged import closed, closed_parameters

        text = inspect.getdoc(closed(kind)[name]) or ""
        return Entry(kind, name, plugins.HOME, _body(text), parameters=closed_parameters(kind, name))
    provider = plugins.provider(kind, name)
    try:
        plugin = plugins.load(kind, name)
        parameters = plugins.parameters(kind, name)
    except FedlabError as error:
        return Entry(kind, name, provider, broken=str(error))
    paper = str(getattr(plugin, "paper", "") or _paper(kind, name, plugin))
    paragraphs = _body(inspect.getdoc(plugin) or "").split("\n\n")
    return Entry(
        kind,
        name,
        provider,
        "\n\n".join(one for one in paragraphs if one != paper),  # it has a line of its own
        paper=paper,
        needs=sorted(map(str, getattr(plugin, "needs", ()))),
        server=str(getattr(plugin, "server", "")) if kind == "attacks" else "",
        adaptive=_names(getattr(plugin, "adaptive", ())) if kind == "defenses" else [],
        parameters=parameters,
        example=dict(getattr(plugin, "example", {})),
    )


def default(parameter: Parameter) -> str:
    """The default as TOML would have it."""
    if parameter.default is REQUIRED:
        return "required"
    return "none" if parameter.default is None else shown(parameter.default)


def _names(given: object) -> list[str]:
    """Names, where a class says them; a stack's depend on what it is of."""
    return [str(one) for one in given] if isinstance(given, tuple | list) else []


def _scenario(name: str) -> Entry:
    import tomllib

    from fedlab.scenario.source import shipped

    text = shipped()[name].read_text(encoding="utf-8")
    claim = str(tomllib.loads(text).get("claim", ""))
    comments = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# "))
    return Entry("scenarios", name, plugins.HOME, "\n\n".join(filter(None, [claim, " ".join(comments)])))


def _body(docstring: str) -> str:
    """The docstring's paragraphs, a line each, without Args: and the like, which a table shows."""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        if paragraph.split("\n")[0].rstrip() in _SECTIONS:
            break
        paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


_SECTIONS = {"Args:", "Attributes:", "Class attributes:", "Returns:", "Raises:"}


_CITATION = re.compile(r'[A-Z][\w ,.-]{2,60}, "[^"]+", .*?https?://.*?\.(?=\s|$)')
"""Authors, "title", where, link, at the start of a paragraph: its first sentence."""


def _paper(kind: str, name: str, plugin: Callable[..., Any]) -> str:
    """A plugin without a `paper` may have it in a docstring, as a paragraph that starts with a citation.

    That of its own docstring counts, and that of its module's if no other plugin is in that module.
    """
    docstrings = [inspect.getdoc(plugin) or ""]
    if plugins.alone(kind, name):
        docstrings.append(inspect.getdoc(inspect.getmodule(plugin)) or "")
    for paragraph in "\n\n".join(docstrings).split("\n\n"):
        if found := _CITATION.match(" ".join(paragraph.split())):
            return found[0]
    return ""
