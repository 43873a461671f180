"""Whole runs without rounds: killed and resumed, attacked on clients that were sent a model twice, ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlab
from fedlab.audit import archive
from fedlab.clients import ClientConfig, plan_batches
from fedlab.errors import FedlabError, Interrupted
from fedlab.experiment import attacking
from tests.experiment import crashes
from tests.experiment.test_resume import stop_at


def scenario(**changes: Any) -> dict[str, Any]:
    """Three of four clients at a time, K = 2, devices of unequal speed that drop out; dp-sgd; an attack."""
    strategy = {
        "name": "fedbuff",
        "rounds": 6,
        "cohort": 2,
        "evaluate_every": 2,
        "deadline": 2.0,
        "server_optimizer": {"momentum": 0.5},
        "local_rule": "scaffold",
        "options": {"concurrency": 3, "staleness": {"name": "polynomial"}, "max_staleness": 3},
    }
    devices = {"time": {"name": "half-normal", "scale": 1.0}, "dropout": 0.1}
    clients = {"count": 4, "batch_size": 2, "local_steps": 1}
    base = crashes.quick_scenario(
        strategy=strategy, devices=devices, clients=clients, audit={"rounds": [1, 3]}
    )
    return base | changes


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    fedlab.run(scenario(), out=out)
    return out


def test_a_kill_at_any_moment_loses_no_bit(whole: Path, tmp_path: Path) -> None:
    """Some of the moments at which the disk holds something else; a checkpoint after each version."""
    out = tmp_path / "run"
    changed = scenario(checkpoint={"every": 1})
    copies = crashes.moments(lambda: fedlab.run(changed, out=out), out, tmp_path)
    begun = [copy for copy in copies if (copy / "manifest.json").exists()]
    assert len(begun) > 40 and any((copy / "checkpoints").exists() for copy in begun)
    expected = crashes.result(out)
    for copy in begun[3::12]:
        fedlab.resume(copy)
        assert crashes.result(copy) == expected, copy
        shutil.rmtree(copy)
    mine, theirs = expected, crashes.result(whole)
    assert json.loads(mine["cells"]) == json.loads(theirs["cells"]), "nor do checkpoints"


def test_a_process_that_is_killed(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = os.fork()
    if child == 0:
        with crashes.killed_at(17):
            fedlab.run(scenario(), out=out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(whole)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_ctrl_c_after_any_version(whole: Path, tmp_path: Path, version: int) -> None:
    plain = scenario(defenses=[{"name": "none"}], attacks=[])
    fedlab.run(plain, out=tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        fedlab.run(plain, out=out, progress=stop_at("train none", version))
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(tmp_path / "whole")


def test_metrics_tell_of_the_schedule(whole: Path) -> None:
    cells = json.loads((whole / "metrics.json").read_text())["cells"]
    for cell in cells.values():
        schedule = cell["schedule"]
        assert schedule["name"] == "fedbuff" and (schedule["concurrency"], schedule["buffer"]) == (3, 2)
        counted = sum(count for _, count in schedule["staleness"])
        assert counted - schedule["discarded"] == 2 * 6 + schedule["left_in_buffer"] - waiting(schedule, cell)


def waiting(schedule: dict[str, Any], cell: dict[str, Any]) -> int:
    """Updates that have arrived and were not looked at when the last version was made."""
    return int(cell["traffic"]["uploads"]) - sum(int(count) for _, count in schedule["staleness"])


def test_the_truth_behind_a_client_that_was_sent_a_model_twice_is_that_of_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K = 8 updates of eight clients, one after the other, drawn anew each time: some are sent version 1
    several times, and draw another record each time. A step on one record changes a row of the first layer by
    a multiple of that record, so each update tells which it was."""
    found: list[Any] = []
    records = attacking._records

    def noted(trained: Any, one: Any) -> Any:
        found.append(trained)
        return records(trained, one)

    monkeypatch.setattr(attacking, "_records", noted)
    changed = scenario(
        strategy={"name": "fedbuff", "rounds": 1, "cohort": 8, "options": {"concurrency": 1}},
        clients={"count": 8, "batch_size": 1, "local_steps": 1, "learning_rate": 0.1},
        defenses=[{"name": "none"}],
        audit={"rounds": [1], "victims": 8},
    )
    changed["task"]["model"] = {"name": "mlp", "width": 32, "depth": 1}
    fedlab.run(changed, out=tmp_path / "run")
    seen = archive.load(tmp_path / "run" / "observations" / "none-train-s3")
    assert len(seen) == 8 and sum(one.repeat > 0 for one in seen) >= 3
    data = found[0].task.train
    pixels = data.images(np.arange(len(data))).flatten(1)
    for one in seen:
        weight = next(value for value in one.update.values() if value.shape[1:] == (64,))
        row = weight[weight.norm(dim=1).argmax()]
        likeness = torch.nn.functional.cosine_similarity(pixels, row[None]).abs()
        assert records(found[0], one).tolist() == [int(likeness.argmax())] and float(likeness.max()) > 0.9999


def test_a_repeat_draws_other_batches() -> None:
    config = ClientConfig(batch_size=4, local_steps=1)
    plans = [np.concatenate(plan_batches(100, config, 3, 1, 0, repeat)) for repeat in range(3)]
    assert len({tuple(plan) for plan in plans}) == 3


def test_a_run_in_which_every_client_fails_ends_with_the_reason(tmp_path: Path) -> None:
    broken = scenario(devices={"dropout": 0.999999}, defenses=[{"name": "none"}], attacks=[])
    with pytest.raises(FedlabError, match=r"not one of the first 3 rounds had enough usable updates"):
        fedlab.run(broken, out=tmp_path / "run")


def test_a_run_that_ends_early_says_why(tmp_path: Path) -> None:
    changed = scenario(defenses=[{"name": "none"}], attacks=[])
    changed["strategy"]["options"]["max_participations"] = 2
    changed["strategy"] |= {"rounds": 50}
    fedlab.run(changed, out=tmp_path / "run")
    (cell,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["cells"].values()
    assert cell["ended"] == "every client was asked 2 times (max_participations)"
    assert cell["traffic"]["downloads"] == 8


def test_nobody_is_asked_once_and_all_fail_is_an_error_too(tmp_path: Path) -> None:
    changed = scenario(devices={"dropout": 0.999999}, defenses=[{"name": "none"}], attacks=[])
    changed["strategy"]["options"]["max_participations"] = 1
    with pytest.raises(FedlabError, match=r"not one model was made .*every client was asked 1 times"):
        fedlab.run(changed, out=tmp_path / "run")
