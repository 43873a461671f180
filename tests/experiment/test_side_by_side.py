"""Several strategies in one run: cells, files, hashes, the report, and going on after a kill."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.cli.tables import summary
from fedlab.errors import UsageError
from fedlab.experiment.cells import Cell
from fedlab.experiment.flower import _clients, instructions
from fedlab.experiment.setup import set_up
from fedlab.scenario import load
from tests.experiment import crashes
from tests.experiment.crashes import Steps

SMALL, EAGER = "small", "eager"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def scenario(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 3,
        "name": "axis",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
        "clients": {"count": 10, "batch_size": 4, "local_steps": 1},
        "strategy": {"rounds": 3, "cohort": 4},
        "devices": {"time": {"name": "exponential"}},
        "strategies": [
            {"label": SMALL},
            {"label": EAGER, "cohort": 8, "over_selection": 1.25, "rounds": 4},
        ],
        "runtime": {"executor": "inline"},
        "checkpoint": {"every": 1},
        "privacy": {"check": False},
        "audit": {"rounds": [1], "victims": 2, "include_samples": True},
        "attacks": [{"name": "linear-layer"}],
        "defenses": [{"name": "none"}, {"name": "dp-sgd", "noise_multiplier": 1.0, "max_grad_norm": 0.1}],
    }
    return base | changes


def alone(entry: dict[str, Any]) -> dict[str, Any]:
    """The scenario with what would be one of its strategies as its only one."""
    given = scenario()
    del given["strategies"]
    strategy = given["strategy"] | {key: value for key, value in entry.items() if key != "label"}
    return given | {"strategy": strategy}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("axis") / "run"
    fedlab.run(scenario(), out=out)
    return out


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each strategy in a run of its own."""
    folder = tmp_path_factory.mktemp("alone")
    for entry in scenario()["strategies"]:
        fedlab.run(alone(entry), out=folder / entry["label"])
    return {label: folder / label for label in (SMALL, EAGER)}


def test_each_strategy_is_trained_to_the_bits_that_it_has_alone(
    finished: Path, each: dict[str, Path]
) -> None:
    together = read(finished / "manifest.json")
    assert [(one["name"], one["strategy"], one["defense"]) for one in together["cells"]] == [
        ("small-none-train-s3", SMALL, "none"),
        ("small-dp-sgd-train-s3", SMALL, "dp-sgd"),
        ("eager-none-train-s3", EAGER, "none"),
        ("eager-dp-sgd-train-s3", EAGER, "dp-sgd"),
    ]
    single = {label: read(run / "manifest.json")["weights_sha256"] for label, run in each.items()}
    assert together["weights_sha256"] == {
        f"{label}-{defense}": sha for label, of in single.items() for defense, sha in of.items()
    }
    assert len(set(together["weights_sha256"].values())) == 4
    both = read(finished / "metrics.json")["cells"]
    for label, run in each.items():
        for name, measured in read(run / "metrics.json")["cells"].items():
            assert both[f"{label}-{name}"] == measured


def test_files_are_named_by_strategy_and_a_run_without_strategies_names_none(
    finished: Path, each: dict[str, Path]
) -> None:
    for folder, name in (("models", "model.safetensors"), ("attacks", "linear-layer.json")):
        assert {path.parent.name for path in (finished / folder).rglob(name)} == {
            f"{label}-{defense}-train-s3" for label in (SMALL, EAGER) for defense in ("none", "dp-sgd")
        }
    assert read(finished / "attacks/eager-none-train-s3/linear-layer.json")["strategy"] == EAGER
    run = each[SMALL]
    assert {path.name for path in (run / "models").iterdir()} == {"none-train-s3", "dp-sgd-train-s3"}
    assert "strategy" not in read(run / "manifest.json")["cells"][0]
    assert "strategy" not in read(run / "attacks/none-train-s3/linear-layer.json")
    assert "strategies" not in tomllib.loads((run / "scenario.toml").read_text())


def test_the_report_has_a_row_for_each_and_compares_within_a_strategy(finished: Path) -> None:
    data = read(finished / "report.json")
    for rows in (data["attacks"], data["utility"], data["guarantees"], data["verdict"]["findings"]):
        assert [(row["strategy"], row["defense"]) for row in rows] == [
            (SMALL, "none"),
            (SMALL, "dp-sgd"),
            (EAGER, "none"),
            (EAGER, "dp-sgd"),
        ]
    small, private, eager, both = data["utility"]
    assert private["accuracy_cost"] == small["accuracy"] - private["accuracy"]
    assert both["accuracy_cost"] == eager["accuracy"] - both["accuracy"]
    setup = data["run"]["setup"]
    assert (setup["rounds"], setup["clients per round"]) == ("small: 3; eager: 4", "small: 4; eager: 8")
    assert (setup["strategy"], setup["aggregator"]) == ("fedavg", "weighted-mean")
    assert [column.header for column in summary(data).columns][:2] == ["strategy", "defense"]


def test_a_kill_at_any_moment_loses_no_bit(finished: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"defenses": [{"name": "none"}], "attacks": []}
    whole = tmp_path / "whole"
    fedlab.run(scenario(**changes), out=whole)
    out = tmp_path / "run"
    copies = crashes.moments(lambda: fedlab.run(scenario(**changes), out=out), out, tmp_path)
    begun = [copy for copy in copies if (copy / "manifest.json").exists()]
    between = [copy for copy in begun if len(read(copy / "manifest.json")["cells"]) == 1]
    assert len(between) > 5, "copies that were taken between the two strategies"
    for copy in begun[::8] + between[:2]:
        if read(copy / "manifest.json")["status"] != "finished":
            fedlab.resume(copy)
        assert crashes.result(copy) == crashes.result(whole), copy


def test_progress_names_the_strategy_and_a_cell_is_found_by_its_name(tmp_path: Path) -> None:
    titles: list[str] = []

    class Titles(Steps):
        def start(self, job: str, total: int) -> None:
            titles.append(f"{job} ({total})")

    fedlab.run(scenario(defenses=[{"name": "none"}], attacks=[]), out=tmp_path / "x", progress=Titles())
    assert titles == ["train small-none-train-s3 (3)", "train eager-none-train-s3 (4)"]
    settings = load(scenario())
    cell = Cell("none", "train", 3, EAGER)
    told = instructions(settings, cell)
    assert cell in set_up(settings).cells
    assert _clients(told["fedlab-scenario"], told["fedlab-cell"]) is not None


def test_what_comes_from_python_counts_for_every_strategy(tmp_path: Path) -> None:
    seen: list[int] = []

    def mine(deltas: Any, weights: Any) -> Any:
        seen.append(len(deltas))
        return deltas.mean(0)

    given = scenario(defenses=[{"name": "none"}], attacks=[])
    fedlab.run(given, out=tmp_path / "x", aggregator=mine)
    assert seen == [4, 8] + [4] * 3 + [8] * 4, "a trial each, then the rounds of each"


def test_a_strategy_that_cannot_be_put_together_fails_before_anything_is_written(tmp_path: Path) -> None:
    broken = {"label": "whole", "name": "fedavg", "local_rule": "personal-head"}
    with pytest.raises(UsageError, match="leaves a part of the model with the clients"):
        fedlab.run(scenario(strategies=[{"label": SMALL}, broken]), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_observations_of_all_strategies_count_for_the_disk(tmp_path: Path) -> None:
    """MLP 64-8-10: 610 numbers; 2 defenses x (4 + 1 + 8 + 1) states of 4 bytes are 0.06832 MB."""
    audit = {"rounds": [1], "victims": 2, "max_disk_mb": 0.0683}
    message = r"4 cells, .* cohorts of 4 and 8 would take 0.0683 MB"
    with pytest.raises(UsageError, match=message):
        fedlab.run(scenario(audit=audit), out=tmp_path / "x")
    set_up(load(scenario(audit=audit | {"max_disk_mb": 0.0684})))
