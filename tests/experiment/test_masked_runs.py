"""Secure sums that are carried out, in whole runs: against the view of them, with drop-outs, and resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fedlab_defenses.secure_sum.masked import SecAggPlus
from flwr.serverapp import Grid

from fedlab.audit import Observation, archive
from fedlab.clients import Federation
from fedlab.errors import UsageError
from fedlab.experiment import flower
from fedlab.experiment.cells import Cell
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop
from fedlab.experiment.setup import set_up
from fedlab.experiment.training import Training
from fedlab.progress import Quiet
from fedlab.runtime import InlineExecutor, RosterGrid, SimulationGrid, enrol
from fedlab.scenario import load

PRIVATE = {"name": "distributed-dp", "noise_multiplier": 1.0}
HALF_STEP = 8.0 / 2**22
ASYNC = {"name": "fedbuff", "options": {"concurrency": 6, "staleness": "polynomial"}}


def scenario(defenses: list[dict[str, Any]], dropout: float = 0.0, **strategy: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": 3,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16}},
        "clients": {"count": 8, "batch_size": 2, "local_steps": 1, "mode": "eval"},
        "strategy": {"rounds": 3, "cohort": 5, "aggregator": "mean", **strategy},
        "devices": {"time": {"name": "half-normal", "scale": 10.0}, "dropout": dropout},
        "defenses": defenses,
        "audit": {"rounds": [1, 3], "victims": 2},
        "runtime": {"executor": "inline"},
    }


def run(out: Path, defenses: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The metrics of each cell, trained without a report."""
    return train(out, scenario(defenses, **changes))


def train(out: Path, given: dict[str, Any], grid: Callable[[Cell], Grid] | None = None) -> dict[str, Any]:
    setup = set_up(load(given), grid=grid)
    there = (out / "manifest.json").exists()
    directory = RunDirectory.open(out) if there else RunDirectory.create(out, "masked")
    if not there:
        directory.update_manifest(cells=[])
    return {
        cell.defense: Training(cell, setup, directory, InlineExecutor(), Quiet()).run(Stop()).metrics
        for cell in setup.cells
    }


def seen(out: Path, cell: str) -> list[Observation]:
    return archive.load(out / "observations" / cell)


def flat(one: Observation) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in one.update.values()])


@pytest.mark.parametrize("aggregator", ["mean", "weighted-mean"])
def test_masked_sums_are_the_views_within_rounding(tmp_path: Path, aggregator: str) -> None:
    """The tap sees one sum a round, of the same clients and records; after one round it is off by half a step
    (times the largest weight over the mean one, here 1.01 at most) and the model's own float32."""
    found = run(tmp_path, [{"name": "secure-aggregation"}, {"name": "secagg-plus"}], aggregator=aggregator)
    views, masked = (seen(tmp_path, f"{name}-eval-s3") for name in ("secure-aggregation", "secagg-plus"))
    assert [one.round for one in masked] == [1, 3]
    for one, other in zip(views, masked, strict=True):
        assert one.parts == other.parts and len(other.parts) == 5
        assert one.examples == other.examples and one.config == other.config
    assert float((flat(views[0]) - flat(masked[0])).abs().max()) <= 1.01 * HALF_STEP + 2.0**-22
    losses = [one["loss"] for one in found.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_no_single_update_stands_in_the_servers_files(tmp_path: Path) -> None:
    """Against an undefended run: none of its updates is near what the server wrote down."""
    run(tmp_path, [{"name": "none"}, {"name": "secagg-plus"}])
    singles = [one for one in seen(tmp_path, "none-eval-s3") if one.round == 1]
    total = seen(tmp_path, "secagg-plus-eval-s3")[0]
    mean = torch.stack([flat(one) for one in singles]).mean(0)
    assert float((flat(total) - mean).norm() / mean.norm()) < 1e-3
    for single in singles:
        assert float((flat(total) - flat(single)).norm() / mean.norm()) > 0.5


def test_what_drops_out_is_told_and_a_round_below_the_threshold_leaves_the_model(tmp_path: Path) -> None:
    """Each message is lost with probability 0.15, four of them to a client and round."""
    found = run(tmp_path, [{"name": "secagg-plus"}], dropout=0.15, rounds=8)["secagg-plus"]
    assert 0 < found["skipped_rounds"] < 8 and found["failures"] > 0
    skipped = [one for one in events(tmp_path) if one["event"] == "skipped round"]
    assert len(skipped) == found["skipped_rounds"]
    reasons = {one["reason"] for one in events(tmp_path) if one["event"] == "client failed"}
    assert any("threshold = 4" in reason for reason in reasons), reasons


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_over_selection_and_a_deadline_go_with_it(tmp_path: Path) -> None:
    """7 are asked for 5; virtual time passes as it does."""
    found = run(tmp_path, [{"name": "secagg-plus"}], over_selection=1.4, deadline=1000.0)
    cell = found["secagg-plus"]
    assert cell["skipped_rounds"] == 0 and cell["stopped"] == 3 * 2
    assert all(len(one.parts) == 5 for one in seen(tmp_path, "secagg-plus-eval-s3"))


def test_distributed_noise_is_the_same_under_masks_and_its_epsilon_is_told(tmp_path: Path) -> None:
    """The same integers are added up; noise on a mean of five has deviation z C sqrt(5/4) / 5."""
    run(
        tmp_path,
        [
            {"label": "view", **PRIVATE},
            {"label": "masked", "name": "stack", "of": [PRIVATE, {"name": "secagg-plus"}]},
        ],
    )
    view, masked = (seen(tmp_path, f"{name}-eval-s3") for name in ("view", "masked"))
    for one, other in zip(view, masked, strict=True):
        torch.testing.assert_close(flat(one), flat(other), rtol=0, atol=2.0**-22)
        assert abs(float(flat(one).std()) / (math.sqrt(1.25) / 5) - 1) < 0.1
    rows = [
        json.loads((tmp_path / f"privacy/{name}-eval-s3.json").read_text()) for name in ("view", "masked")
    ]
    assert [row["epsilon"] for row in rows] == [rows[0]["epsilon"]] * 2
    assert 5.0 < rows[0]["epsilon"] < 10.0 and rows[0]["unit"].startswith("one user")


def test_a_run_repeats_and_one_cut_off_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scenario([{"name": "secagg-plus"}]) | {"checkpoint": {"every": 1}}
    plain = SecAggPlus.grid

    def cut(self: SecAggPlus, inner: Grid, federation: Federation) -> Grid:
        made, rounds = plain(self, inner, federation), iter(range(2))
        pushed = made.push_messages

        def push(messages: Any) -> list[str]:
            if next(rounds, None) is None:
                raise KeyboardInterrupt
            return list(pushed(messages))

        made.push_messages = push  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(SecAggPlus, "grid", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", whole)
    monkeypatch.setattr(SecAggPlus, "grid", plain)
    found = [train(tmp_path / name, whole)["secagg-plus"] for name in ("cut", "whole")]
    assert found[0]["loss"] == found[1]["loss"] and len(seen(tmp_path / "cut", "secagg-plus-eval-s3")) == 2
    cells = [
        json.loads((tmp_path / name / "manifest.json").read_text())["cells"] for name in ("cut", "whole")
    ]
    assert cells[0] == cells[1]


def test_nodes_of_a_deployment_mask_with_keys_of_their_own(tmp_path: Path) -> None:
    """Behind the app that Flower starts, on nodes with other ids: the model is that of the simulation, whose
    keys come from the seed tree."""
    given = scenario([{"name": "secagg-plus"}], cohort=4)
    settings = load(given)

    def nodes(cell: Cell) -> Grid:
        foreign = RosterGrid(SimulationGrid(flower.client_app, 8), list(reversed(range(2, 10))))
        return RosterGrid(foreign, enrol(foreign, 8), flower.instructions(settings, cell))

    found = [train(tmp_path / name, given, grid)["secagg-plus"] for name, grid in (("a", None), ("b", nodes))]
    assert found[1]["failures"] == 0 == found[1]["skipped_rounds"]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (ASYNC, "FedBuff|Buffered"),
        ({"aggregator": "median"}, "median"),
        ({"cohort": 1}, "nothing to add up"),
        ({"quorum": 5}, "quorum = 5"),
    ],
)
def test_what_cannot_be_added_up_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        run(tmp_path, [{"name": "secagg-plus"}], **changes)


def test_adversaries_that_replace_updates_are_refused(tmp_path: Path) -> None:
    given = scenario([{"name": "secagg-plus"}])
    given["adversaries"] = [{"name": "sign-flip", "fraction": 0.3}]
    with pytest.raises(UsageError, match="replace updates on their way"):
        train(tmp_path, given)
