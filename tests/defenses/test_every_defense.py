"""What holds for each of fedlab's own defenses: it can be made, says where it is from, and trains."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab import plugins
from fedlab.audit import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.tasks import FunctionalModel

OWN = [name for name in plugins.names("defenses") if plugins.provider("defenses", name) == plugins.HOME]
SILENT = {"none", "stack"}
"""Those that change nothing by themselves: they have no paper, and no attack knows them."""


def made(name: str) -> Defense:
    defense = plugins.build("defenses", {"name": name, **example(name)})
    assert isinstance(defense, Defense)
    return defense


def example(name: str) -> dict[str, Any]:
    return dict(getattr(plugins.load("defenses", name), "example", {}))


@pytest.mark.parametrize("name", OWN)
def test_it_says_what_it_is_and_who_knows_it(name: str) -> None:
    plugin, defense = plugins.load("defenses", name), made(name)
    said = inspect.getdoc(plugin) or ""
    assert len(said.splitlines()[0]) > 20 and inspect.getdoc(inspect.getmodule(plugin))
    if name not in SILENT:
        assert len(defense.paper) > 20
        assert defense.adaptive or defense.spends, "an attack that knows it, or what can be proved"
        assert type(defense).adaptive or not defense.adaptive, "`fedlab list defenses` reads the class"
    assert set(defense.adaptive) <= set(plugins.names("attacks"))


@pytest.mark.parametrize("name", OWN)
def test_each_parameter_is_described(name: str) -> None:
    for parameter in plugins.parameters("defenses", name):
        assert parameter.doc or parameter.name == "**", f"{name}.{parameter.name}"


@pytest.mark.parametrize("name", OWN)
def test_what_it_discloses_is_about_the_network_that_it_defends(name: str) -> None:
    def network() -> Any:
        return plugins.build("models", {"name": "convnet", "width": 2, "depth": 1}, (1, 8, 8), 10)

    defense = made(name)
    model = FunctionalModel(defense.network(network)(), (1, 8, 8))
    told = defense.disclosure(model)
    assert isinstance(told, Disclosure)
    assert told.distorted <= set(model.parameter_names) and len(told.distorted) < len(model.parameter_names)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_each_trains_in_one_scenario(tmp_path: Path, mode: str) -> None:
    """A round of all of them side by side."""
    scenario = {
        "schema": 1,
        "name": "every-defense",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": [6]}},
        "clients": {"count": 12, "batch_size": 8, "local_steps": 2, "mode": [mode]},
        "strategy": {"rounds": 1, "cohort": 4, "aggregator": "mean"},
        "defenses": [{"name": name, **example(name)} for name in OWN],
        "privacy": {"check": False},
        "runtime": {"executor": "inline"},
    }
    fedlab.run(scenario, out=tmp_path / "run")
    cells = json.loads((tmp_path / "run" / "metrics.json").read_text())["cells"]
    assert set(cells) == {f"{name}-{mode}-s0" for name in OWN}
    undefended = cells[f"none-{mode}-s0"]
    for name, cell in cells.items():
        assert cell["failures"] == 0 and cell["rejected"] == {} and cell["skipped_rounds"] == 0, name
        assert cell["parameters"] > 0 and 0.0 <= cell["accuracy"] <= 1.0
    assert cells[f"precode-{mode}-s0"]["parameters"] > undefended["parameters"]
    assert cells[f"frozen-first-layer-{mode}-s0"]["parameters"] == undefended["parameters"] - 64 * 6 - 6
