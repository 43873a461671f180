"""The two apps in a folder, imported as Flower imports them: with the folder first on Python's path.

What runs from here on is foreign code: it may print, seed, or end the process. What can be kept within
bounds inside one process is (`fedlab.apps.bounds`); the rest is for whoever starts that process.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedlab import seeds
from fedlab.apps.bounds import Printed, bounded, exit_code, own_traceback, words
from fedlab.apps.folder import AppFolder
from fedlab.apps.needs import advice
from fedlab.errors import BadApp, did_you_mean

App = TypeVar("App", ServerApp, ClientApp)


@dataclass(frozen=True, eq=False)
class Apps:
    """A ServerApp and a ClientApp.

    Attributes:
        output: what they printed while they were imported, its last 200 lines.
        before: names of the modules that Python had before.
    """

    server: ServerApp
    client: ClientApp
    output: Sequence[str] = ()
    before: frozenset[str] = frozenset()


def load(folder: AppFolder, *, seed: int = 0) -> Apps:
    """Import both apps; `seed` is that of the global generators meanwhile, which stay as they were.

    Raises:
        BadApp: a module that is missing or does not import (with the app's own traceback), an attribute
            that is missing or no ServerApp or ClientApp.
    """
    printed, before = Printed(), frozenset(sys.modules)
    importlib.invalidate_caches()
    try:
        with bounded(printed, folder.path, seeds.derive(seed, "import")):
            server = _component(folder, "serverapp", folder.serverapp, ServerApp)
            client = _component(folder, "clientapp", folder.clientapp, ClientApp)
    except BadApp:
        _forget(folder, before)
        raise
    return Apps(server, client, printed.lines, before)


def forget(apps: Apps, folder: AppFolder) -> None:
    """Take the app's modules out of Python, so that another app may call its own the same."""
    _forget(folder, apps.before)


def _forget(folder: AppFolder, before: frozenset[str]) -> None:
    for name, module in list(sys.modules.items()):
        if name not in before and _beneath(module, folder.path) and not _installed(name, module):
            del sys.modules[name]


def _component(folder: AppFolder, name: str, reference: str, kind: type[App]) -> App:
    module_name, _, attributes = reference.partition(":")
    where = f'{name} "{reference}"'
    found: Any = _imported(folder, module_name, where)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            known = [key for key, value in vars(found).items() if isinstance(value, kind)]
            near = did_you_mean(attribute, known) or (f' Did you mean "{known[0]}"?' if known else "")
            raise BadApp(
                f"{where}: {module_name} has no {attribute}; expected a {kind.__name__} there.{near}"
            )
        found = getattr(found, attribute)
    if not isinstance(found, kind):
        got = (
            f"{found.__module__}.{found.__qualname__}"
            if isinstance(found, type)
            else f"a {type(found).__name__}"
        )
        raise BadApp(f"{where} is {got}; expected a {kind.__name__} object, as in app = {kind.__name__}(...)")
    return found


def _imported(app: AppFolder, name: str, where: str) -> Any:
    """The module, of this folder and no other."""
    folder = app.path
    top = name.partition(".")[0]
    other = sys.modules.get(top)
    if other is not None and not _beneath(other, folder) and _has(folder, top):
        raise BadApp(
            f"{where}: another module {top} is in use already ({getattr(other, '__file__', None)});"
            " rename the app's own"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            there = sorted(_names(folder))
            raise BadApp(
                f"{where}: no module {error.name} in {folder}.{did_you_mean(top, there)}"
                f" There {'is' if len(there) == 1 else 'are'}: {', '.join(there[:10]) or 'none'}"
            ) from None
        raise _unimportable(app, where, error) from None
    except SystemExit as error:
        told = f"{where} ended the process with code {exit_code(error)} while it was imported"
        raise BadApp(told, own_traceback(error, folder)) from None
    except Exception as error:
        raise _unimportable(app, where, error) from None


def _unimportable(app: AppFolder, where: str, error: Exception) -> BadApp:
    told, trace = words(error), own_traceback(error, app.path)
    todo = advice(f"{told}\n{trace}", app.dependencies)
    return BadApp(f"{where} does not import: {told}" + (f".\n{todo}" if todo else ""), trace)


def _has(folder: Path, top: str) -> bool:
    return (folder / top).is_dir() or (folder / f"{top}.py").is_file()


def _names(folder: Path) -> set[str]:
    """Modules and packages in the folder."""
    packages = {one.parent.name for one in folder.glob("*/*.py")}
    return packages | {one.stem for one in folder.glob("*.py")}


def _installed(name: str, module: object) -> bool:
    """Whether it is ours, or a library's, which may lie beneath the app in an environment of its own."""
    file = str(getattr(module, "__dict__", {}).get("__file__") or "")
    libraries = {"site-packages", "dist-packages"}
    return name.partition(".")[0] == "fedlab" or not libraries.isdisjoint(Path(file).parts)


def _beneath(module: object, folder: Path) -> bool:
    known = getattr(module, "__dict__", {})  # asking a module for more may make it load, or invent it
    file = known.get("__file__")
    places = [file] if file else list(known.get("__path__", []))  # a package without __init__.py
    roots = tuple(f"{root}{os.sep}" for root in (folder, folder.resolve()))
    return any(str(one).startswith(roots) for one in places)
