"""What a callable's parameters are, and whether values from a text file fit them.

Plugins have no second description of their knobs: the signature is the schema, and the "Args:" (or
"Attributes:") of the docstring explain it.
"""

from __future__ import annotations

import builtins
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fedlab.errors import did_you_mean

REQUIRED = inspect.Parameter.empty
"""The default of a parameter that has none."""

REST = "**"
"""The name of a parameter that takes every other one."""


@dataclass(frozen=True)
class Parameter:
    """One knob: `annotation` is a type (Any if unknown), `default` is REQUIRED where there is none."""

    name: str
    annotation: Any
    default: Any
    doc: str = ""

    @property
    def type_name(self) -> str:
        """The annotation as it is written in Python."""
        return _written(self.annotation)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the annotation; empty where there is none."""
        adapter = _adapter(self.annotation)
        try:
            return dict(adapter.json_schema()) if adapter else {}
        except Exception:  # no schema for a type that pydantic can check all the same
            return {}

    @property
    def range(self) -> str:
        """The bounds of a number, as in ">= 0 and < 1"; empty where there are none."""
        schema = self.schema
        bounds = [_range(option).strip() for option in schema.get("anyOf", [schema])]
        return " or ".join(filter(None, bounds))

    @property
    def expected(self) -> str:
        """What a value looks like, in words where the type allows it."""
        return describe(self.schema) or f"a value of type {self.type_name}"


def parameters(function: Callable[..., Any], given: int = 0) -> list[Parameter]:
    """The parameters of a function or class after the first `given`; `**rest` comes out named REST."""
    hints = _hints(function)
    docs = _docs(function)
    found = []
    for position, item in enumerate(inspect.signature(function).parameters.values()):
        if item.kind is item.VAR_KEYWORD:
            found.append(Parameter(REST, Any, None))
        elif item.kind is item.KEYWORD_ONLY or (
            item.kind is item.POSITIONAL_OR_KEYWORD and position >= given
        ):
            found.append(
                Parameter(item.name, hints.get(item.name, Any), item.default, docs.get(item.name, ""))
            )
    return found


def fit(
    known: Iterable[Parameter], values: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Convert values to the annotated types: `(converted, [(parameter, what is wrong), ...])`.

    The rules are those of strict JSON: a list may become a tuple, a string a path, and an int a
    float, but "3" is no number and 1 is not true. What no annotation describes passes unchanged.
    """
    by_name = {item.name: item for item in known}
    converted: dict[str, Any] = {}
    faults = []
    for name, value in values.items():
        if name in by_name and name != REST:
            try:
                converted[name] = _convert(by_name[name], value)
            except ValueError as error:
                faults.append((name, str(error)))
        elif REST in by_name:
            converted[name] = value
        else:
            listed = ", ".join(by_name) or "none"
            faults.append((name, f"unknown parameter.{did_you_mean(name, by_name)} Parameters: {listed}"))
    for item in by_name.values():
        if item.default is REQUIRED and item.name not in values:
            faults.append((item.name, f"missing; expected {item.expected}"))
    return converted, faults


def shown(value: object) -> str:
    """A value as a mistake quotes it: as in TOML, and never longer than a line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = _toml(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _toml(value: object) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict) and value:
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _written(annotation: Any) -> str:
    """A type as it is written in Python, without what narrows it: `int | None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_written(option) for option in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(shown(value) for value in get_args(annotation))
    if annotation is NoneType:
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(annotation))


def describe(node: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> str:
    """A JSON Schema in words: `{"type": "integer", "minimum": 1}` is "an integer >= 1"."""
    root = node if root is None else root
    if "$ref" in node:
        return describe(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    for key in ("anyOf", "oneOf"):
        if key in node:
            parts = [describe(part, root) for part in node[key] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(parts))
    if "const" in node:
        return shown(node["const"])
    if "enum" in node:
        return " or ".join(shown(value) for value in node["enum"])
    match node.get("type"):
        case "integer":
            return "an integer" + _range(node)
        case "number":
            return "a finite number" + _range(node)
        case "boolean":
            return "true or false"
        case "string":
            return str(node.get("x-words", "a string"))
        case "array":
            items = describe(node.get("items", {}), root)
            least, most = node.get("minItems"), node.get("maxItems")
            few = (
                f"a list of {least}" if least and least == most else "a non-empty list" if least else "a list"
            )
            return few + (f", each {items}" if items else "")
        case "object":
            return "a table"
    return ""


def _range(node: Mapping[str, Any]) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {_plain(node['minimum'])} to {_plain(node['maximum'])}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " and".join(f" {sign} {_plain(node[key])}" for key, sign in signs.items() if key in node)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def _adapter(annotation: Any) -> Any:
    """pydantic's judge of a type, or None for a type that it cannot judge."""
    from pydantic import ConfigDict, TypeAdapter

    for config in (ConfigDict(allow_inf_nan=False), None):  # dataclasses and models bring their own
        try:
            return TypeAdapter(annotation, config=config)
        except Exception:  # the plugin itself may still refuse the value
            continue
    return None


def _convert(parameter: Parameter, value: object) -> Any:
    from pydantic import ValidationError

    adapter = _adapter(parameter.annotation)
    if adapter is None:
        return value
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # an object, passed from Python
        text = None
    try:
        return adapter.validate_python(value) if text is None else adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] in {"value_error", "assertion_error"} or not parameter.schema:
            raise ValueError(f"got {shown(value)}; {first['msg']}") from None
        raise ValueError(f"got {shown(value)}; expected {parameter.expected}") from None


class _Names(dict[str, Any]):
    """A namespace in which a name that exists only for type checkers means Any."""

    def __missing__(self, name: str) -> Any:
        return Any


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations; none where a stranger's strings cannot be resolved at all."""
    code: Any = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    module = sys.modules.get(getattr(code, "__module__", None) or "")
    try:
        names = _Names(vars(builtins) | (vars(module) if module else {}))
        return get_type_hints(code, localns=names, include_extras=True)
    except Exception:
        return {}


_SECTION = re.compile(r"^(Args|Arguments|Parameters|Attributes|Class attributes):\s*$")
_ENTRY = re.compile(r"^(\w+(?:, \w+)*)(?: \([^)]*\))?: +(.+)$")


def _docs(function: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> text, from the "Args:" of a function, of a class, or of its __init__."""
    texts = [inspect.getdoc(function) or ""]
    if inspect.isclass(function):
        texts.append(inspect.getdoc(function.__init__) or "")
    found: dict[str, str] = {}
    for text in texts:
        inside, margin = False, 0
        current: list[str] = []
        for line in text.splitlines():
            indent = len(line) - len(line.lstrip())
            if _SECTION.match(line):
                inside, margin, current = True, 0, []
            elif line and not indent:
                inside = False
            elif inside and line.strip():
                margin = margin or indent
                entry = _ENTRY.match(line.strip()) if indent == margin else None
                if entry:
                    current = entry[1].split(", ")
                    found.update(dict.fromkeys(current, entry[2].strip()))
                else:
                    found.update({name: f"{found[name]} {line.strip()}" for name in current})
    return found
