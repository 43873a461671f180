"""A Flower app's folder: what its pyproject.toml says of it, read as Flower 1.41 reads it.

Nothing is imported here. Every mistake is told at once; keys that only Flower's app store needs (publisher,
version) may be missing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.apps.needs import dependencies_of
from fedlab.errors import BadApp, UnknownName, UsageError, did_you_mean

PROJECT = "pyproject.toml"
ROUNDS = (
    "num-server-rounds",
    "num-rounds",
    "server-rounds",
    "global-rounds",
    "n-rounds",
    "total-rounds",
    "fl-rounds",
    "rounds",
)
"""Keys of a run config that count rounds, the usual ones first; `_` counts as `-`, and so do capitals."""
Value = str | int | float | bool
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*('[^']*'|\"[^\"]*\"|\S+)(?=\s|$)")


@dataclass(frozen=True)
class AppFolder:
    """What a pyproject.toml says of a Flower app.

    Attributes:
        path: the folder, absolute.
        name: of the project, the folder's own if it has none.
        serverapp, clientapp: "module:attribute", the module as seen from the folder.
        config: defaults of the run config, nested tables flattened to "a.b" as Flower does.
        supernodes: how many its default federation simulates, None if it does not say.
        audit: the table [tool.fedlab.audit], as it stands there.
        dependencies: the packages that the project says it needs.
    """

    path: Path
    name: str
    serverapp: str
    clientapp: str
    config: Mapping[str, Value]
    supernodes: int | None = None
    audit: Mapping[str, Any] | None = None
    dependencies: tuple[str, ...] = ()

    def configured(self, changes: Mapping[str, Value]) -> dict[str, Value]:
        """The run config with `changes`.

        Raises:
            UnknownName: a key that the app's own config has not; Flower refuses it, too.
            UsageError: a value of another type than the app's own.
        """
        for key, value in changes.items():
            if key not in self.config:
                raise UnknownName("key of this app's run config", key, self.config)
            own = self.config[key]
            if not _same_type(value, own):
                raise UsageError(
                    f"run config {key} = {value!r}; expected {_kind(own)}, as the app's own {own!r}"
                )
        return {**self.config, **changes}

    def rounds_key(self) -> str | None:
        """The key of the run config that counts rounds; None if none is called so."""
        known = {
            key.rpartition(".")[2].replace("_", "-").lower(): key
            for key, value in self.config.items()
            if isinstance(value, int) and not isinstance(value, bool)
        }
        return next((known[name] for name in ROUNDS if name in known), None)


def read(path: str | Path) -> AppFolder:
    """The app in a folder (or that of a pyproject.toml).

    Raises:
        BadApp: there is none, or its pyproject.toml cannot work; names every mistake.
    """
    folder = Path(path).expanduser().absolute()
    if folder.name == PROJECT and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise BadApp(f"no folder {path}; expected that of a Flower app, with its {PROJECT}")
    project = _project(folder)
    mistakes: list[str] = []
    app = _table(project, mistakes, "tool", "flwr", "app")
    if app is None:
        raise BadApp(_told(folder, mistakes or ["no table [tool.flwr.app]; is this the folder of the app?"]))
    references = _references(app, mistakes)
    config = _flat(app.get("config", {}), mistakes)
    audit = _table(project, mistakes, "tool", "fedlab", "audit")
    if mistakes:
        raise BadApp(_told(folder, mistakes))
    about = _table(project, [], "project") or {}
    name = about.get("name")
    return AppFolder(
        path=folder,
        name=name if isinstance(name, str) and name else folder.name,
        serverapp=references["serverapp"],
        clientapp=references["clientapp"],
        config=config,
        supernodes=_supernodes(project),
        audit=audit,
        dependencies=dependencies_of(about),
    )


def overrides(text: str) -> dict[str, Value]:
    """The changes of a run config as `flwr run --run-config` takes them: `lr=0.1 name="x" fast=true`.

    Raises:
        UsageError: what is no `key=value`, or no value of TOML; names it.
    """
    found: dict[str, Value] = {}
    place = 0
    while text[place:].strip():
        pair = _PAIR.match(text, place)
        if pair is None:
            raise UsageError(
                f"run config {text[place:].strip()!r}; expected key=value, as in lr=0.1 fast=true"
            )
        key, value = pair.groups()
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = None
        if not isinstance(parsed, Value):
            raise UsageError(
                f'run config {key}={value}; expected a number, true, false, or a text in quotes ({key}="...")'
            )
        found[key] = parsed
        place = pair.end()
    return found


def _project(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / PROJECT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadApp(f"no {PROJECT} in {folder}; expected the folder of a Flower app") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadApp(_told(folder, [f"cannot be read: {error}"])) from error


def _told(folder: Path, mistakes: list[str]) -> str:
    plural = "s" if len(mistakes) != 1 else ""
    return "\n".join(
        [f"{folder / PROJECT}: {len(mistakes)} mistake{plural}", *(f"  {one}" for one in mistakes)]
    )


def _table(project: Mapping[str, Any], mistakes: list[str], *keys: str) -> dict[str, Any] | None:
    """A table by its path, None if there is none."""
    found: Any = project
    for depth, key in enumerate(keys, start=1):
        found = found.get(key)
        if found is None:
            return None
        if not isinstance(found, dict):
            mistakes.append(f"{'.'.join(keys[:depth])} = {found!r}; expected a table")
            return None
    return dict(found)


def _references(app: Mapping[str, Any], mistakes: list[str]) -> dict[str, str]:
    """Where ServerApp and ClientApp are."""
    components = app.get("components")
    if not isinstance(components, dict):
        mistakes.append("no table [tool.flwr.app.components]; expected serverapp and clientapp in it")
        return {}
    if "agentapp" in components and not {"serverapp", "clientapp"} & components.keys():
        mistakes.append("tool.flwr.app.components has an agentapp: an agent trains nothing with clients")
        return {}
    found = {}
    for name in ("serverapp", "clientapp"):
        place, value = f"tool.flwr.app.components.{name}", components.get(name)
        if value is None:
            near = did_you_mean(name, components) if components else ""
            mistakes.append(f'{place} is missing; expected "module:attribute".{near}'.rstrip("."))
        elif not isinstance(value, str) or not _REFERENCE.fullmatch(value):
            mistakes.append(f'{place} = {value!r}; expected "module:attribute", as in "my_app.{name}:app"')
        else:
            found[name] = value
    return found


def _flat(table: object, mistakes: list[str]) -> dict[str, Value]:
    if not isinstance(table, dict):
        mistakes.append(f"tool.flwr.app.config = {table!r}; expected a table")
        return {}
    found: dict[str, Value] = {}
    for key, value in _leaves(table):
        if isinstance(value, Value):
            found[key] = value
        else:
            mistakes.append(
                f"tool.flwr.app.config.{key} = {value!r}; Flower takes a number, true, false or a text"
            )
    return found


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _supernodes(project: Mapping[str, Any]) -> int | None:
    """What the default federation says; Flower keeps federations elsewhere since 1.26, many apps do not."""
    federations = _table(project, [], "tool", "flwr", "federations")
    if not federations:
        return None
    named = federations.get("default")
    chosen = federations.get(named) if isinstance(named, str) else None
    options = chosen.get("options", {}) if isinstance(chosen, dict) else {}
    count = options.get("num-supernodes") if isinstance(options, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


def _same_type(value: Value, own: Value) -> bool:
    if isinstance(own, float):  # "lr=1" is meant as 1.0
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(own)


def _kind(value: Value) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: 'a text ("...")'}[
        type(value)
    ]
