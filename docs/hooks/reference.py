"""The API reference, from docstrings: a page per package, as mkdocs builds the site.

What a package's `__init__` exports (`from ... import X as X`) is public, and stands on its page. Docstrings
are read as the project writes them: sections such as `Args:` and `Raises:` with one entry per line.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

PACKAGES = {
    "fedlab": "Run, resume, attack, read.",
    "fedlab.tasks": "Records, networks and the loss.",
    "fedlab.audit": "Contracts of attacks and defenses, and what an attacker sees.",
    "fedlab.clients": "How a client learns.",
    "fedlab.strategies": "How the server learns.",
    "fedlab.privacy": "What can be proved.",
    "fedlab.runtime": "The Grid that Flower apps run on, and where their clients run.",
    "fedlab.adversaries": "Clients that misbehave.",
    "fedlab.testing": "Does a plugin keep its contract?",
    "fedlab.errors": "What can go wrong, and the exit code of each.",
}
SECTIONS = ("Args", "Attributes", "Class attributes", "Raises", "Returns", "Yields")
WIDE = 92
"""Letters of a signature on one line."""


class _Bare(str):
    """An annotation as it is written, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def exported(package: str) -> list[str]:
    """Public names of a package, in the order of its `__init__`; of a module, what it defines."""
    module = importlib.import_module(package)
    source = Path(str(module.__file__))
    tree = ast.parse(source.read_text(encoding="utf-8"))
    if source.name != "__init__.py":
        defined = (ast.ClassDef, ast.FunctionDef)
        return [node.name for node in tree.body if isinstance(node, defined) and node.name[0] != "_"]
    return [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name and alias.asname
    ]


def page(package: str) -> str:
    """The reference of one package as Markdown."""
    module = importlib.import_module(package)
    parts = [f"# {package}", prose(inspect.getdoc(module) or PACKAGES[package])]
    for name in exported(package):
        parts += _entry(name, getattr(module, name), level=2)
    return "\n\n".join(parts) + "\n"


def _entry(name: str, thing: Any, *, level: int) -> list[str]:
    parts = [f"{'#' * level} {name}"]
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return [*parts, f"    {name} = {_text(thing)}"]
    if shown := signature(name, thing):
        parts.append(shown)
    if text := _own_doc(thing):
        parts.append(prose(text))
    for key, member in vars(thing).items() if inspect.isclass(thing) else []:
        value = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if key.startswith("_") and key != "__call__":
            continue
        if inspect.isfunction(value) and value.__doc__:
            parts += _entry(f"{name}.{key}", value, level=level + 1)
        elif isinstance(value, property) and value.__doc__:
            parts += [f"{'#' * (level + 1)} {name}.{key}", prose(inspect.getdoc(value) or "")]
    return parts


def _own_doc(thing: Any) -> str:
    """The docstring that somebody wrote: not the one that dataclasses and bases would lend."""
    text = thing.__doc__ or ""
    return "" if text.startswith(f"{getattr(thing, '__name__', '')}(") else inspect.cleandoc(text)


def signature(name: str, thing: Any) -> str:
    """How it is called, as a block of code; nothing for errors and whatever has none."""
    if inspect.isclass(thing) and (issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False)):
        return ""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    bare = [one.replace(annotation=_bare(one.annotation)) for one in found.parameters.values()]
    found = found.replace(parameters=bare, return_annotation=_bare(found.return_annotation))
    text = _text(found, quoted=False)
    call = name.removesuffix(".__call__")
    if len(call + text) > WIDE:
        arguments = "".join(f"\n    {_text(one, quoted=False)}," for one in _starred(bare))
        _, arrow, result = text.rpartition(") -> ")
        text = f"({arguments}\n){' -> ' + result if arrow else ''}"
    return f"```text\n{call}{text}\n```"


def _starred(parameters: list[inspect.Parameter]) -> list[Any]:
    """Parameters with the star before those that must be named."""
    kinds = [one.kind for one in parameters]
    named, starred = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL
    if named not in kinds or starred in kinds:
        return list(parameters)
    place = kinds.index(named)
    return [*parameters[:place], _Bare("*"), *parameters[place:]]


def _bare(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    return _Bare(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def _text(thing: Any, *, quoted: bool = True) -> str:
    """How Python writes it, without addresses in memory."""
    text = repr(thing) if quoted else str(thing)
    return re.sub(r"<(?:function|class|bound method) '?([\w.]+).*?>", r"\1", text)


def prose(text: str) -> str:
    """A docstring as Markdown: its sections become lists, and nothing in it is markup by accident."""
    lines, inside = [], ""
    for line in text.splitlines():
        heading = line.rstrip().removesuffix(":")
        if line.endswith(":") and heading in SECTIONS:
            inside = heading
            lines += ["", f"**{heading}**", ""]
        elif inside and line and not line.startswith(" "):
            inside = ""
            lines += ["", _escaped(line)]
        elif inside and re.match(r" {4}\S", line):
            lines.append(f"* {_item(line.strip())}")
        elif line.startswith("    ") and not inside:
            lines.append(line)  # an example
        else:
            lines.append(_escaped(line.strip()) if not inside else f"  {_escaped(line.strip())}".rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _item(line: str) -> str:
    """`name: words` with the name in bold."""
    found = re.match(r"([\w*][\w, *.]*): (.*)", line)
    return f"**{_escaped(found[1])}**: {_escaped(found[2])}" if found else _escaped(line)


def _escaped(text: str) -> str:
    """Outside of `code`, no markup."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        one if one.startswith("`") else re.sub(r"([*\[\]])", r"\\\1", one).replace("<", "&lt;")
        for one in pieces
    )


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: the pages of the reference."""
    from mkdocs.structure.files import File

    listed = "\n".join(f"* [{name}]({name}.md): {words}" for name, words in PACKAGES.items())
    index = f"# API reference\n\nWhat Python sees, from the docstrings.\n\n{listed}\n"
    files.append(File.generated(config, "reference/index.md", content=index))
    for package in PACKAGES:
        files.append(File.generated(config, f"reference/{package}.md", content=page(package)))
    return files
