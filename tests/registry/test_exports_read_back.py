"""What TensorBoard and MLflow themselves read of an export, where they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.registry.conftest import Fedlab, write

START = 1795289108.0  # 2026-11-21T19:25:08Z


@pytest.fixture
def run(folder: Path) -> Path:
    return write(folder / "small-1")


def test_tensorboard_reads_curves_figures_and_words(folder: Path, run: Path, fedlab: Fedlab) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fedlab("runs", "note", "small-1", "a note")
    assert fedlab("runs", "export", "small-1", "--to", "tensorboard", "--out", "board")[0] == 0
    found = reading.EventAccumulator(str(folder.parent / "board" / "small-1"))
    found.Reload()
    curve = found.Scalars("accuracy/none-train-s7")
    assert [(one.step, one.value, one.wall_time) for one in curve] == [
        (1, 0.5, START + 2.5),
        (2, 0.875, START + 5.0),
    ]
    (leak,) = found.Scalars("attacks/none/train/oracle/everything/psnr_median")
    assert leak.value == 99.0
    words = {
        tag.removesuffix("/text_summary"): found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in found.Tags()["tensors"]
    }
    assert words["note"] == "a note" and words["claim"] == "Nothing leaks."
    assert "    defenses.private.noise_multiplier = 1.5" in words["settings"].split("\n")


def test_mlflow_reads_runs_settings_figures_and_reports(
    folder: Path, run: Path, fedlab: Fedlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    tracking = pytest.importorskip("mlflow.tracking")
    write(folder / "small-2", status="interrupted")
    fedlab("runs", "tag", "small-1", "baseline")
    for name in ("small-1", "small-2"):
        assert fedlab("runs", "export", name, "--to", "mlflow", "--out", "flow")[0] == 0
    place = folder.parent / "flow"
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    runs: dict[str, Any] = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert {name: one.info.status for name, one in runs.items()} == {
        "small-1": "FINISHED",
        "small-2": "KILLED",
    }
    first = runs["small-1"]
    assert (first.info.start_time, first.info.end_time) == (1000 * START, 1000 * (START + 187))
    assert first.data.tags["fedlab.tag.baseline"] == "true"
    assert first.data.params["task.model.name"] == "mlp"
    assert first.data.metrics["guarantees/dp-sgd/train/epsilon"] == 3.14159
    curve = client.get_metric_history(first.info.run_id, "accuracy/none-train-s7")
    assert [(one.step, one.value, one.timestamp) for one in curve] == [
        (1, 0.5, 1000 * START + 2500),
        (2, 0.875, 1000 * START + 5000),
    ]
    (report,) = client.list_artifacts(first.info.run_id)
    kept = Path(client.download_artifacts(first.info.run_id, report.path, str(folder)))
    assert json.loads(kept.read_text()) == json.loads((run / "report.json").read_text())
    assert sorted(path.name for path in place.iterdir()) == ["artifacts", "mlflow.db"]
