"""The cells of a sweep: one scenario at every combination of its `[sweep]`, each a scenario of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fedlab.errors import Problem, ScenarioError
from fedlab.files import sha256
from fedlab.scenario.loading import loaded, resolved_toml
from fedlab.scenario.map_rules import written
from fedlab.scenario.schema import Scenario
from fedlab.scenario.sweep_rules import Settings, axis_names, changed, combinations

LONGEST = 64
"""Characters of a cell's name, which names its directory."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: `settings` are the values of the axes, by key."""

    name: str
    settings: Settings
    scenario: Scenario

    @property
    def sha256(self) -> str:
        """Hash of the scenario with every default filled in, which decides what comes of it."""
        return sha256(resolved_toml(self.scenario).encode())


@dataclass(frozen=True)
class Sweep:
    """What is to run.

    Attributes:
        base: the scenario that the axes turn, `sweep` and all.
        toml: the same as it was written, without defaults: what `fedlab sweep` can be given again.
    """

    base: Scenario
    toml: str
    axes: dict[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]


def plan(
    given: str | Path | Mapping[str, Any] | Scenario, overrides: Sequence[str] = (), axes: Sequence[str] = ()
) -> Sweep:
    """Every cell, checked.

    Args:
        given, overrides: as for `fedlab.scenario.load`; overrides change all cells.
        axes: `"a.b=1,2,3"`, as in the command line's `--sweep`, beside those of `[sweep]`.

    Raises:
        ScenarioError: every mistake of the scenario and of each cell; or there is nothing to sweep.
    """
    base, data = loaded(given, overrides, axes)
    if base.sweep is None:
        raise ScenarioError(
            f"scenario {base.name}",
            [
                Problem(
                    "sweep",
                    'nothing to sweep; expected a table [sweep] with "clients.batch_size" = [1, 4, 8],'
                    " or --sweep clients.batch_size=1,4,8",
                )
            ],
        )
    found = list(combinations(base.sweep))
    cells = []
    for name, settings in zip(names(found), found, strict=True):
        scenario = Scenario.model_validate(changed(data, settings)[0] | {"name": name})
        cells.append(Cell(name, settings, scenario))
    return Sweep(base, tomli_w.dumps(data), dict(base.sweep), tuple(cells))


def names(cells: Sequence[Settings]) -> list[str]:
    """Short names that say the settings, each once even where letters are not told apart by case:
    `batch_size-4__seed-1`."""
    short = axis_names(list(cells[0]))
    plain = [
        "__".join(f"{short[key]}-{_slug(value)}" for key, value in settings.items()) for settings in cells
    ]
    counts = Counter(_cut(name).casefold() for name in plain)
    return [
        name if len(name) <= LONGEST and counts[name.casefold()] == 1 else _marked(name, settings)
        for name, settings in zip(plain, cells, strict=True)
    ]


def _marked(name: str, settings: Settings) -> str:
    """A name that would not do, with a mark made of the settings."""
    return f"{name[: LONGEST - 9]}-{sha256(written(settings).encode())[:8]}"


def _cut(name: str) -> str:
    return name[:LONGEST]


def _slug(value: Any) -> str:
    """A value in letters that a file name may have; `{ name = "dirichlet", alpha = 0.5 }` is
    `dirichlet-alpha-0.5`."""
    if isinstance(value, dict):
        parts = [_slug(item) if key == "name" else f"{key}-{_slug(item)}" for key, item in value.items()]
        text = "-".join(parts)
    elif isinstance(value, list | tuple):
        text = "-".join(map(_slug, value)) or "none"
    else:
        text = value if isinstance(value, str) else written(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "empty" if not _signed(value) else text


def _signed(value: Any) -> bool:
    """Whether this is a number, whose sign is to stay."""
    return isinstance(value, int | float) and not isinstance(value, bool)
