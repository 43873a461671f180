"""What the shell offers when Tab is pressed: names of scenarios, plugins and runs.

Each press starts a process, so that nothing is imported here before its names are wanted: entry points and
folders are listed, no plugin is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fedlab.shipped import shipped

MOST = 200
"""Names that are offered at most."""


def of(kind: str) -> Callable[[str], list[str]]:
    """The plugins of a kind, by name."""

    def complete(incomplete: str) -> list[str]:
        from fedlab import plugins

        return _fitting(plugins.names(kind), incomplete)

    return complete


datasets, models, defenses, attacks = map(of, ("datasets", "models", "defenses", "attacks"))


def attack_specs(incomplete: str) -> list[str]:
    """NAME of NAME:key=value."""
    return [] if ":" in incomplete else attacks(incomplete)


def trainings(incomplete: str) -> list[str]:
    """Ways to train."""
    from fedlab.cli.starter import TRAINING

    return _fitting(TRAINING, incomplete)


def levels(incomplete: str) -> list[str]:
    """What attackers may know."""
    from fedlab.ladder import LADDER

    return _fitting([*LADDER, "each", "unaware"], incomplete)


def everything(incomplete: str) -> list[str]:
    """All that `fedlab info` tells of, but partitions and times: those would load numpy."""
    from fedlab import plugins

    names = {name for kind in plugins.KINDS for name in plugins.names(kind)}
    return _fitting(sorted(names | set(shipped())), incomplete)


def scenarios(incomplete: str) -> list[str]:
    """Shipped scenarios, and TOML files and folders that begin so."""
    return [*_fitting(shipped(), incomplete), *_paths(incomplete, lambda path: path.suffix == ".toml")]


def runs(incomplete: str) -> list[str]:
    """Folders of runs and sweeps, and folders on the way there."""
    marks = ("manifest.json", "sweep.json")
    found = _paths(incomplete, lambda path: any((path / name).is_file() for name in marks))
    return found or ["runs/"] * ("runs/".startswith(incomplete) and Path("runs").is_dir())


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Entries of the folder that is being typed which are wanted, and folders, with a slash at their end."""
    folder, slash, start = incomplete.rpartition("/")
    here = Path(folder + slash) if slash else Path()
    try:
        entries = sorted(path for path in here.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    shown = [path for path in entries if not path.name.startswith(".") or start.startswith(".")]
    found = [
        folder + slash + path.name + ("" if wanted(path) else "/")
        for path in shown
        if wanted(path) or path.is_dir()
    ]
    return found[:MOST]


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
