"""From a path or the name of a shipped scenario to TOML text and its tables."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from fedlab.errors import Problem, ScenarioError, did_you_mean
from fedlab.shipped import shipped as shipped

LARGEST = 1_000_000
"""Bytes; no experiment needs more, and a wrong file (a data set, a device) is refused early."""

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_MEANINGS = {
    "Cannot overwrite a value": "this key or table is already set above; give it once",
    "Invalid value": "this is no TOML value; text needs quotes, true and false are written small",
    "Invalid statement": "expected a key, as in count = 10, or a table, as in [clients]",
    "Expected newline or end of document after a statement": "this line goes on after its value ends;"
    " text needs quotes, and each key its own line",
}


def find(source: str | Path) -> Path:
    """The file that is meant: an existing path, or else the name of a shipped scenario.

    Raises:
        ScenarioError: there is no such file and no such scenario.
    """
    path = Path(source)
    if not str(source):
        raise ScenarioError('""', [Problem("file", "no name given; expected a file or a shipped scenario")])
    if "\0" in str(source):
        raise ScenarioError(repr(str(source)), [Problem("file", "a file name cannot hold a NUL character")])
    try:
        if path.is_dir() and str(source) not in shipped():
            inside = path / "scenario.toml"
            hint = f'did you mean "{inside}"?' if inside.is_file() else "expected a TOML file"
            raise ScenarioError(str(source), [Problem("file", f"this is a directory; {hint}")])
        if path.exists() and not path.is_dir():
            return path
    except OSError as error:
        raise ScenarioError(str(source), [Problem("file", f"{error.strerror}; expected a file")]) from None
    if str(source) in shipped():
        return shipped()[str(source)]
    near = did_you_mean(path.stem, shipped())
    known = ", ".join(shipped()) or "none"
    raise ScenarioError(
        str(source), [Problem("file", f"no such file, and no shipped scenario.{near} Shipped: {known}")]
    )


def read(path: Path) -> str:
    """The text of a scenario file.

    Raises:
        ScenarioError: it cannot be read, is no UTF-8 text, or is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise ScenarioError(str(path), [Problem("file", f"cannot be read: {error.strerror}")]) from None
    if len(raw) > LARGEST:
        raise ScenarioError(
            str(path), [Problem("file", "larger than 1 MB; expected a scenario, which takes a page of TOML")]
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ScenarioError(
            str(path), [Problem(f"line {line}", "no UTF-8 text; expected a TOML file in UTF-8")]
        ) from None


def parse(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ScenarioError: with line, column and the line itself.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ScenarioError(source, [Problem("file", "brackets are nested too deeply")]) from None
    except ValueError as error:  # TOMLDecodeError, and an integer of thousands of digits
        place = _PLACE.search(str(error))
        message = str(error)[: place.start()] if place else str(error)
        message = _MEANINGS.get(message, message)
        if not place:
            raise ScenarioError(source, [Problem("file", message)]) from None
        if not place[1]:
            message = "the file ends inside a text, a list or a table; close it"
            raise ScenarioError(source, [Problem("end of file", message)]) from None
        line = int(place[1])
        shown = text.splitlines()[line - 1].strip()[:80] if line <= len(text.splitlines()) else ""
        where = f"line {line}, column {place[2]}"
        raise ScenarioError(source, [Problem(where, f"{message}: {shown}" if shown else message)]) from None
