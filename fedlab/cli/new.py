"""`fedlab new`: a small package with a plugin that works, to change into one's own."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fedlab import plugins
from fedlab.cli.output import plain
from fedlab.errors import BackendError, UnknownName, UsageError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of plugins: imports of the test, and where a scenario names one."""

    group: str
    key: str
    imports: str
    function: bool = False


_CHECK = "from fedlab.testing import check_{}"
KINDS = {
    "aggregator": Kind(
        "aggregators",
        "aggregator",
        f"import torch\nfrom fedlab.strategies import Updates\n{_CHECK.format('aggregator')}",
    ),
    "local-rule": Kind("local_rules", "local_rule", f"import torch\n{_CHECK.format('local_rule')}"),
    "server-optimizer": Kind(
        "server_optimizers", "server_optimizer", f"import torch\n{_CHECK.format('server_optimizer')}"
    ),
    "sampler": Kind(
        "samplers",
        "sampling",
        f"import numpy\nfrom fedlab.strategies.sampling import Population\n{_CHECK.format('sampler')}",
        function=True,
    ),
}


def kinds(incomplete: str) -> list[str]:
    """For shell completion."""
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(new)


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", autocompletion=kinds, show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; ./NAME unless given.", show_default=False)
    ] = None,
) -> None:
    """Write a small package with a plugin of your own: entry point, documented example, test.

    KIND is aggregator, local-rule, server-optimizer or sampler; NAME is how scenarios will call it, such as
    clipped-mean.
    """
    kind = kind.replace("_", "-")
    if kind not in KINDS:
        raise UnknownName("kind of plugin that `fedlab new` writes", kind, KINDS)
    folder = Path(name) if out is None else out
    write(kind, checked(kind, name), folder)
    module = module_of(name)
    plain(f"{folder}/{module}.py is the {kind.replace('-', ' ')}, test_{module}.py its test. Next:")
    plain(f"  cd {folder}")
    plain("  pip install -e .        # without a network: pip install -e . --no-deps --no-build-isolation")
    plain("  pytest")
    plain(f"  fedlab info {name}")
    plain(f"  fedlab run quickstart --set strategy.{KINDS[kind].key}={name}")


def checked(kind: str, name: str) -> str:
    """The name, if it can be one and is free.

    Raises:
        UsageError: it cannot, or a plugin has it.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        better = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
        better = better.strip("-0123456789")[:LONGEST].strip("-")
        hint = f' Did you mean "{better}"?' if NAME.fullmatch(better) else ""
        raise UsageError(
            f'the name "{name}" cannot be a plugin\'s; expected 1 to {LONGEST} lower-case letters and digits,'
            f" in words joined by single dashes, the first of them a letter.{hint}"
        )
    group = KINDS[kind].group
    if name in plugins.names(group):
        raise UsageError(
            f'the name "{name}" is taken by {plugins.provider(group, name)}: choose another'
            f" (`fedlab info {group}/{name}` says what that one is)"
        )
    return name


def write(kind: str, name: str, folder: Path) -> None:
    """Write the package into a folder that is new or empty.

    Raises:
        UsageError: something is there already.
        BackendError: the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists; expected a folder that is new or empty (--out)")
    known, module = KINDS[kind], module_of(name)
    words = {
        "name": name,
        "kind": kind.replace("-", " "),
        "kinds": plugins.singular(known.group) + "s",
        "group": known.group,
        "module": module,
        "object": object_of(name, known),
        "check": kind.replace("-", "_"),
        "imports": known.imports,
    }
    words["own"] = "\n" + _filled(f"{kind}-test.txt", words).rstrip()
    files = {
        "pyproject.toml": _filled("pyproject.toml.txt", words),
        f"{module}.py": _filled(f"{kind}.txt", words),
        f"test_{module}.py": _filled("test.txt", words),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BackendError(f"{folder} cannot be written: {error.strerror}; choose another --out") from error


def module_of(name: str) -> str:
    """A module name that shadows no other: `clipped-mean` is `fedlab_clipped_mean`."""
    return f"fedlab_{name.replace('-', '_')}"


def object_of(name: str, kind: Kind) -> str:
    """`clipped-mean` is the class ClippedMean, or the function clipped_mean."""
    if not kind.function:
        return "".join(word.capitalize() for word in name.split("-"))
    function = name.replace("-", "_")
    taken = keyword.iskeyword(function) or function in sys.modules["builtins"].__dict__
    return f"{function}_" if taken else function


def _filled(template: str, words: dict[str, str]) -> str:
    text = resources.files("fedlab.cli").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(words)
