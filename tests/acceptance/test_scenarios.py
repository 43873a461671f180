"""The shipped scenarios keep their claims (minutes; `make test-slow`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.scenario import load
from fedlab.tasks import store

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def test_quickstart(tmp_path: Path) -> None:
    report = fedlab.run("quickstart", out=tmp_path / "ray").data
    rows = {(row["attack"], row["defense"]): row for row in report["attacks"]}
    assert all(row["victims"] >= 8 and row["client_mode"] == "train" for row in rows.values())
    assert rows["inverting-gradients", "none"]["psnr_median"] <= 15
    assert rows["dropout-inversion", "none"]["psnr_median"] >= 30
    assert rows["cascade", "none"]["psnr_median"] >= 100
    for (_, defense), row in rows.items():
        assert row["control"]["psnr_median"] <= 12
        if defense == "dp-sgd":
            assert row["psnr_median"] <= max(13, row["control"]["psnr_median"] + 1)
    assert {row["defense"]: row["accuracy"] for row in report["utility"]}["none"] >= 0.85
    assert {row["defense"]: row["epsilon"] for row in report["guarantees"]}["dp-sgd"] > 0

    hashes = manifest(tmp_path / "ray")["weights_sha256"]
    for name, runtime in {
        "inline": ["runtime.executor=inline"],
        "one": ["runtime.executor=ray", "runtime.workers=1"],
        "two": ["runtime.executor=ray", "runtime.workers=2"],
    }.items():
        training = load("quickstart", runtime).model_copy(update={"attacks": ()})
        fedlab.run(training, out=tmp_path / name)
        assert manifest(tmp_path / name)["weights_sha256"] == hashes, name


@pytest.mark.skipif(
    store.status("fashion-mnist").status == "missing", reason="fedlab data fetch fashion-mnist"
)
def test_fashion(tmp_path: Path) -> None:
    report = fedlab.run("fashion", out=tmp_path / "fashion").data
    assert report["utility"][0]["accuracy"] > 0.8
