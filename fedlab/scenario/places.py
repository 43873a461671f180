"""Where in a TOML file each key stands, so that a mistake can name its line.

tomllib keeps no positions. This scanner reads a text that tomllib has already accepted, so it need not
judge anything: it follows table headers and keys, and skips over strings, comments and brackets.
What stands inside an inline table or an array has the line of its key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]")
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[{]|[\]}]|\n|[^"\'#\[\]{}\n]+',
    re.DOTALL,
)


def lines(text: str) -> dict[Path, int]:
    """Path -> line, counted from 1, of every table and key of a valid TOML text.

    A path holds keys and, for an array of tables, the index: `("attacks", 1, "name")`.
    """
    found: dict[Path, int] = {}
    tables: dict[Path, int] = {}  # array of tables -> index of its last element
    table: Path = ()
    for number, statement in _statements(text):
        if header := _HEADER.match(statement):
            parts = _split(header[2])
            for end in range(1, len(parts)):
                found.setdefault(_resolve(parts[:end], tables), number)
            table = _resolve(parts[:-1], tables) + parts[-1:]
            if header[1] == "[[":
                tables[table] = tables.get(table, -1) + 1
                found.setdefault(table, number)
                table += (tables[table],)
            found[table] = number
        elif key := _KEY.match(statement):
            path = table
            for part in _split(key[1]):
                path += (part,)
                found.setdefault(path, number)
    return found


def line_of(path: Path, found: Mapping[Path, int]) -> int | None:
    """The line of a path, or of the nearest thing around it that has one."""
    while path:
        if path in found:
            return found[path]
        path = path[:-1]
    return None


def _statements(text: str) -> list[tuple[int, str]]:
    """(first line, text) of each header or key with its value, however many lines it takes."""
    found = []
    depth, line, start, current = 0, 1, 1, ""
    for token in _TOKEN.findall(text.replace("\r\n", "\n") + "\n"):
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        if token == "\n" and depth == 0:
            if current.strip():
                found.append((start, current))
            current, start = "", line + 1
        elif not token.startswith("#"):
            current += token
        line += token.count("\n")
    return found


def _split(dotted: str) -> Path:
    """The parts of a dotted key, unquoted by tomllib itself."""
    path: Path = ()
    here: object = tomllib.loads(f"{dotted} = 0")
    while isinstance(here, dict):
        ((part, here),) = here.items()
        path += (part,)
    return path


def _resolve(parts: Path, tables: Mapping[Path, int]) -> Path:
    """`[attacks.x]` under `[[attacks]]` means the last element of `attacks`."""
    path: Path = ()
    for part in parts:
        path += (part,)
        if path in tables:
            path += (tables[path],)
    return path
