"""What algorithms remember survives a kill: control variates, Adam's moments, an aggregator's state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import fedlab
from fedlab.errors import DataError
from fedlab.snapshot import Snapshot
from fedlab.strategies import SGD, Composition, Learner, Synchronous, Updates, as_aggregator
from fedlab.strategies.aggregators import mean
from tests.experiment import crashes


class Slow:
    """The mean of this round's median-like middle and of what it said last time."""

    def aggregate(self, updates: Updates, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        middle = updates.deltas.sort(dim=0).values[1:-1].mean(0)
        said = middle if not state else (middle + state["said"]) / 2
        return said, {"said": said}


def scenario(**strategy: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": 3,
        "name": "algorithms",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
        "clients": {"count": 5, "batch_size": 64, "local_epochs": 2, "stragglers": {"fraction": 0.5}},
        "strategy": {
            "rounds": 4,
            "cohort": 3,
            "local_rule": "scaffold",
            "sampling": "weighted",
            "server_optimizer": {"name": "adam", "learning_rate": 0.01},
        }
        | strategy,
        "runtime": {"executor": "inline"},
        "checkpoint": {"every": 1},
        "audit": {"rounds": [1, 3], "victims": 2},
        "attacks": [{"name": "linear-layer"}, {"name": "label-recovery"}],
    }


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[Path]]:
    """What a run ends with, and its directory at each moment from the first checkpoint to the last."""
    folder = tmp_path_factory.mktemp("killed")
    out = folder / "run"
    copies = crashes.moments(lambda: fedlab.run(scenario(), out=out, aggregator=Slow()), out, folder)
    return crashes.result(out), [copy for copy in copies if list(copy.glob("checkpoints/*/round-*"))]


def test_a_kill_in_any_round_loses_no_bit_of_what_is_remembered(killed: Any) -> None:
    whole, copies = killed
    assert len(copies) > 12
    for copy in copies[::6]:
        fedlab.resume(copy, aggregator=Slow())
        assert crashes.result(copy) == whole, copy


@pytest.mark.parametrize("part", ["optimizer_state", "aggregator_states", "server_state"])
def test_what_is_remembered_counts(killed: Any, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: forget any one of the three, and the bits are others."""
    whole, copies = killed
    restore = Learner.restore

    def forgetful(self: Learner, snapshot: Snapshot) -> None:
        restore(self, snapshot)
        setattr(self, part, None if part == "server_state" else {})

    monkeypatch.setattr(Learner, "restore", forgetful)
    where = ["optimizer_state", "aggregator_states", "server_state"].index(part)
    copy = [one for one in copies if list(one.glob("checkpoints/*/round-000002.values.json"))][where]
    fedlab.resume(copy, aggregator=Slow())
    assert crashes.result(copy)["weights_sha256"] != whole["weights_sha256"]


def test_an_observation_tells_how_many_epochs_the_client_did(killed: Any) -> None:
    """Two epochs, or one for a straggler: of three clients, round(1.5) = 2 do both."""
    index = json.loads(next(killed[1][-1].parent.glob("run/observations/*/index.json")).read_text())
    assert sorted(one["config"]["local_epochs"] for one in index["observations"]) == [1, 1, 2, 2, 2, 2]


def test_the_checkpoint_of_another_algorithm_is_refused() -> None:
    one = Composition(Learner(as_aggregator(mean), SGD(), ["w"], 0), Synchronous(1, 0))
    other = Composition(Learner(as_aggregator(Slow), SGD(), ["w"], 0), Synchronous(1, 0))
    other.restore(other.snapshot())
    with pytest.raises(
        DataError, match="another algorithm: Slow, SGD, ServerSide, but this one is mean, SGD"
    ):
        one.restore(other.snapshot())
