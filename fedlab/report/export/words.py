"""Markdown that says what it is given and does nothing else: names from a run may hold anything.

What could become markup (GitHub's dialect of CommonMark, https://github.github.com/gfm/) is escaped, so that
a client called `<script>` reads as that, and one with a pipe or a line break stays in its cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fedlab.report.reading import DASH

_MARKUP = re.compile(r"([\\`*_\[\]<>|~$])")
_NUMBERED = re.compile(r"^([0-9]{1,9})([.)](?:\s|$))")
_BULLET = re.compile(r"^(#{1,6}|[+-]+)(?=\s|$)")


def said(value: Any) -> str:
    """Text on one line, where nothing is markup; a dash for nothing."""
    if value is None or value == "":
        return DASH
    text = " ".join(str(value).split()).replace("&", "&amp;")
    text = _MARKUP.sub(r"\\\1", text)
    text = _NUMBERED.sub(r"\1\\\2", text)
    return _BULLET.sub(r"\\\1", text)


def paragraph(*parts: str) -> str:
    """Parts that are Markdown already, in one paragraph."""
    return " ".join(filter(None, parts))


def bullets(items: Iterable[str]) -> str:
    """A list of what is Markdown already."""
    return "\n".join(f"- {item}" for item in items)


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values, those without a value left out."""
    return bullets(f"{said(name)}: {said(value)}" for name, value in pairs if value not in (None, "", [], {}))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; heads that begin with `>` stand over figures, on the right."""
    names = [said(head.removeprefix(">")) for head in heads]
    rules = ["--:" if head.startswith(">") else "---" for head in heads]
    lines = [names, rules, *([said(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(text: str, language: str = "") -> str:
    """Text as it is, in a fence that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
