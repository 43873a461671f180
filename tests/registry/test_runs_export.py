"""What TensorBoard and MLflow are given, with stand-ins that keep what they get."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedlab.registry import exporting
from tests.registry.conftest import Fedlab, write

START = 1795289108.0  # 2026-11-21T19:25:08Z


class Writer:
    """Stands for torch.utils.tensorboard.SummaryWriter."""

    made: list[Writer]

    def __init__(self, log_dir: str) -> None:
        self.log_dir, self.scalars, self.texts, self.closed = log_dir, [], {}, False
        self.scalars: list[tuple[Any, ...]]
        self.texts: dict[str, str]
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int, walltime: float) -> None:
        self.scalars.append((tag, value, step, walltime))

    def add_text(self, tag: str, text: str, step: int, walltime: float) -> None:
        self.texts[tag] = text

    def close(self) -> None:
        self.closed = True


class Client:
    """Stands for mlflow.tracking.MlflowClient, on one database for all."""

    experiments: dict[str, Any]
    runs: list[dict[str, Any]]
    uris: list[str]

    def __init__(self, tracking_uri: str) -> None:
        Client.uris.append(tracking_uri)

    def get_experiment_by_name(self, name: str) -> Any:
        return Client.experiments.get(name)

    def create_experiment(self, name: str, artifact_location: str) -> str:
        Client.experiments[name] = SimpleNamespace(experiment_id="1", place=artifact_location)
        return "1"

    def create_run(self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        self.run: dict[str, Any] = {"start": start_time, "tags": tags, "name": run_name, "files": []}
        self.run |= {"metrics": [], "params": []}
        Client.runs.append(self.run)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert run_id == "abc" and len(metrics) + len(params) <= 100
        self.run["metrics"] += metrics
        self.run["params"] += params

    def log_artifact(self, run_id: str, path: str) -> None:
        self.run["files"].append(Path(path).name)

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.run["status"], self.run["end"] = status, end_time


@dataclass(frozen=True)
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Param:
    key: str
    value: str


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tools are "installed"."""
    Writer.made, Client.experiments, Client.runs, Client.uris = [], {}, [], []
    for name, contents in {
        "tensorboard": {},
        "torch.utils.tensorboard": {"SummaryWriter": Writer},
        "mlflow": {},
        "mlflow.tracking": {"MlflowClient": Client},
        "mlflow.entities": {"Metric": Metric, "Param": Param},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("tool", ["tensorboard", "mlflow"])
def test_without_the_extra_it_says_what_to_install(
    folder: Path, fedlab: Fedlab, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    write(folder / "small-1")
    monkeypatch.setitem(sys.modules, tool, None)
    code, out, err = fedlab("runs", "export", "small-1", "--to", tool)
    assert (code, out) == (6, "") and f'pip install "fedlab-audit[{tool}]"' in err
    assert not (folder.parent / tool).exists()


def test_tensorboard(folder: Path, fedlab: Fedlab, tools: None) -> None:
    write(folder / "small-1")
    fedlab("runs", "note", "small-1", "a note")
    code, out, _ = fedlab("runs", "export", "small-1", "--to", "tensorboard", "--out", "board")
    assert code == 0 and out.splitlines()[0] == str(folder.parent / "board" / "small-1")
    (writer,) = Writer.made
    assert writer.closed
    assert ("accuracy/none-train-s7", 0.5, 1, START + 2.5) in writer.scalars
    assert ("accuracy/none-train-s7", 0.875, 2, START + 5.0) in writer.scalars
    assert [one for one in writer.scalars if one[0] == "loss/none-train-s7"] == [
        ("loss/none-train-s7", 0.25, 2, START + 5.0)  # what was not measured is no point
    ]
    assert ("attacks/none/train/oracle/everything/psnr_median", 99.0, 0, START) in writer.scalars
    assert ("guarantees/dp-sgd/train/epsilon", 3.14159, 0, START) in writer.scalars
    assert not any("guarantees/none" in one[0] for one in writer.scalars)  # no guarantee is no number
    assert writer.texts["note"] == "a note" and writer.texts["claim"] == "Nothing leaks."
    assert "defenses.private.noise_multiplier = 1.5" in writer.texts["settings"]
    assert fedlab("runs", "export", "small-1", "--to", "tensorboard", "--out", "board")[0] == 2


def test_mlflow(folder: Path, fedlab: Fedlab, tools: None) -> None:
    write(folder / "small-1")
    write(folder / "small-2", status="interrupted")
    fedlab("runs", "tag", "small-1", "baseline")
    for name in ("small-1", "small-2"):
        assert fedlab("runs", "export", name, "--to", "mlflow", "--out", "flow")[0] == 0
    assert set(Client.uris) == {f"sqlite:///{folder.parent / 'flow' / 'mlflow.db'}"}
    assert list(Client.experiments) == ["small"]
    first, second = Client.runs
    assert (first["name"], first["status"], second["status"]) == ("small-1", "FINISHED", "KILLED")
    assert first["start"] == 1000 * START and first["end"] == 1000 * (START + 187)
    assert first["tags"]["fedlab.tag.baseline"] == "true" and first["files"] == ["report.json"]
    assert Metric("train_loss/none-train-s7", 1.0, round(1000 * (START + 5)), 2) in first["metrics"]
    assert Param("task.model.name", "mlp") in first["params"]


def test_a_tool_that_breaks_is_no_fault_of_ours(folder: Path, fedlab: Fedlab, tools: None) -> None:
    write(folder / "small-1")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("database is locked")

    sys.modules["mlflow.tracking"].MlflowClient = fail  # type: ignore[attr-defined]
    code, _, err = fedlab("runs", "export", "small-1", "--to", "mlflow")
    assert code == 6 and "database is locked" in err


@pytest.mark.parametrize("file", ["metrics.json", "report.json", "scenario.toml"])
def test_damaged_runs_are_not_handed_on(folder: Path, fedlab: Fedlab, tools: None, file: str) -> None:
    run = write(folder / "small-1")
    (run / file).write_text('{"cells": {"a": {"rounds": [{}]}, "utility": 3')
    code, _, err = fedlab("runs", "export", "small-1", "--to", "tensorboard")
    assert code == 3 and file in err and not Writer.made


def test_a_run_that_was_never_trained_has_settings(folder: Path) -> None:
    run = write(folder / "small-1", status="failed", error="x")
    for name in ("metrics.json", "report.json"):
        (run / name).unlink()
    handed = exporting.gather(run)
    assert handed.curves == handed.figures == {} and handed.documents == ()
    assert handed.settings["seed"] == "7" and handed.started == START
