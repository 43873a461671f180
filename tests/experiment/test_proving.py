"""privacy/CELL.checks.json: what a run checks of what it claims, once, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fedlab_defenses.privacy.private_gradients import PrivateRule

import fedlab
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.proving import prove
from fedlab.experiment.setup import Setup, set_up
from fedlab.experiment.stages import _train, executor_of
from fedlab.privacy.releases import Claim
from fedlab.progress import Quiet
from fedlab.scenario import load

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "task": {"dataset": "digits", "model": "softmax"},
    "clients": {"count": 40, "batch_size": 8, "local_steps": 2, "mode": "train"},
    "strategy": {"rounds": 2, "cohort": 2, "aggregator": "mean"},
    "defenses": [{"name": "none"}, {"name": "dp-sgd", "noise_multiplier": 1.0}],
    "audit": {"rounds": [1], "victims": 1},
    "privacy": {"canaries": {"count": 200}, "prior": [0.01, 0.1]},
    "runtime": {"executor": "inline"},
}
FILE = "privacy/dp-sgd-train-s0.checks.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proving") / "run"
    fedlab.run(SCENARIO, out=out)
    return out


def again(run: Path, **privacy: Any) -> dict[str, Any]:
    """The file, written anew by the same run's parts."""
    scenario = load(SCENARIO | {"privacy": SCENARIO["privacy"] | privacy})
    setup: Setup = set_up(scenario)
    directory = RunDirectory.open(run)
    with executor_of(scenario, Quiet()) as executor:
        cells = [_train(cell, setup, directory, executor, Quiet(), None) for cell in setup.cells]  # type: ignore[arg-type]
        prove(directory, setup, cells, executor, Quiet())
    found: dict[str, Any] = json.loads((run / FILE).read_text())
    return found


def test_a_cell_with_noise_has_a_file_and_others_have_none(run: Path) -> None:
    assert [path.name for path in run.glob("privacy/*.checks.json")] == [Path(FILE).name]
    found = json.loads((run / FILE).read_text())
    guarantee = json.loads((run / "privacy/dp-sgd-train-s0.json").read_text())
    assert found["client"] == guarantee["most_exposed"]
    assert found["alarm"] is None
    names = {one["name"]: one["verdict"] for one in found["checks"]}
    assert set(names.values()) == {"passed"}
    assert {"noise", "sensitivity", "records: sensitivity", "denominator", "batch sizes"} <= set(names)
    audit = found["one_run"]
    assert (audit["m"], audit["guesses"], audit["confidence"]) == (200, 20, 0.95)
    assert 0 <= audit["right"] <= 20 and audit["epsilon_hat"] <= audit["epsilon"]
    assert [one["kappa"] for one in found["rero"]] == [0.01, 0.1]
    assert found["why_no_rero"] == ""
    assert all(one["kappa"] <= one["gamma"] <= one["upper"] for one in found["rero"])


def test_it_is_written_once_and_the_same_each_time(run: Path) -> None:
    before = (run / FILE).read_bytes()
    (run / FILE).write_bytes(before + b" ")
    again(run)
    assert (run / FILE).read_bytes() == before + b" "  # it was there
    (run / FILE).unlink()
    again(run)
    assert (run / FILE).read_bytes() == before


def test_a_clip_that_is_not_kept_raises_the_alarm(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that clips to twice what it says."""
    kept = (run / FILE).read_bytes()
    monkeypatch.setattr(PrivateRule, "claim", property(lambda rule: Claim(rule.clip.limit / 2.0)))
    (run / FILE).unlink()
    try:
        found = again(run, canaries=None)
    finally:
        (run / FILE).write_bytes(kept)
    assert found["one_run"] is None
    assert "sensitivity: one record moves the sum by 2 times its bound" in found["alarm"]
    assert found["rero"] == [] and "alarm" in found["why_no_rero"]


def test_what_says_nothing_of_its_clipping_is_not_tested(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (run / FILE).read_bytes()
    monkeypatch.setattr(PrivateRule, "claim", None)
    (run / FILE).unlink()
    try:
        found = again(run)
    finally:
        (run / FILE).write_bytes(kept)
    (only,) = found["checks"]
    assert only["verdict"] == "not tested" and found["alarm"] is None
    assert found["why_no_one_run"]


def test_no_chance_of_reconstruction_is_told_where_an_assumption_fails(run: Path) -> None:
    kept, path = (run / FILE).read_bytes(), run / "privacy/dp-sgd-train-s0.json"
    guarantee = json.loads(path.read_text())
    broken = guarantee | {"epsilon": None, "assumptions": [{"text": "batches are Poisson", "holds": False}]}
    (run / FILE).unlink()
    before = path.read_bytes()
    path.write_text(json.dumps(broken))
    try:
        found = again(run, canaries=None)
    finally:
        path.write_bytes(before)
        (run / FILE).write_bytes(kept)
    assert found["rero"] == [] and "batches are Poisson" in found["why_no_rero"]
