"""Code that people paste, made of names from a run directory: whatever is no plain name or layer stays words.

A run directory may come from anybody. What it says of files, layers and numbers goes into a line of code only
after it has been parsed as one: names as identifiers, layers as a class of torch.nn with literals.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from dataclasses import dataclass
from typing import Any

_PARTS = re.compile(r"[^\W\d]\w*|\d+")


@dataclass(frozen=True)
class Step:
    """One place to change: `code` in `language` (python, toml or diff), and where it belongs.

    Attributes:
        text: what to do, in a sentence.
        file: that it is done in, as the app calls it; "" if that is not known.
        line: of that file, at or below which it stands; None if that is not known.
    """

    text: str
    code: str
    language: str = "python"
    file: str = ""
    line: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As report.json has it."""
        return {
            "text": self.text,
            "file": self.file,
            "line": self.line,
            "language": self.language,
            "code": self.code,
        }


def number(value: Any, *, low: float = 0.0) -> float:
    """A finite number of at least `low`.

    Raises:
        ValueError: it is none; the file that it came from is damaged.
    """
    found = float(value)
    if isinstance(value, bool) or not math.isfinite(found) or found < low:
        raise ValueError(f"{value!r} is no number of at least {low:g}")
    return found


def whole(value: Any, *, low: int = 0) -> int:
    """A whole number of at least `low`.

    Raises:
        ValueError: it is none.
    """
    found = number(value, low=low)
    if found != int(found):
        raise ValueError(f"{value!r} is no whole number")
    return int(found)


def known(layer: str) -> bool:
    """Whether a layer's name is made of names and numbers, `block.0.conv`, and of nothing else."""
    return all(part.isascii() and _PARTS.fullmatch(part) for part in layer.split("."))


def attribute(layer: str) -> str | None:
    """`block.0.conv` as `self.block[0].conv`; None where the first part is a number, or a part is no name."""
    found = "self"
    if not known(layer):
        return None
    for part in layer.split("."):
        if keyword.iskeyword(part):
            return None
        found += f"[{int(part)}]" if part.isdecimal() else f".{part}"
    return None if found.startswith("self[") else found


def layer(text: str) -> str | None:
    """How to write a layer that torch shows as `text`; None where that cannot be told.

    torch prints `Conv2d(1, 8, kernel_size=(3, 3), padding=same)`, which is code but for the quotes.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            return None
        if not tree.func.id[:1].isupper() or not known(tree.func.id):
            return None
        given = [_literal(one) for one in tree.args]
        given += [f"{one.arg}={_literal(one.value)}" for one in tree.keywords if one.arg]
        if len(given) != len(tree.args) + len(tree.keywords):
            return None  # **more
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return f"nn.{tree.func.id}({', '.join(given)})"


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.Name) and node.id in ("same", "valid"):
        return repr(node.id)
    return repr(ast.literal_eval(node))
