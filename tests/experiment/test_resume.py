"""A run that is killed at any moment and resumed ends with the bits of one that was left alone."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fedlab_defenses.none import NoDefense
from flwr.serverapp.strategy import Strategy

import fedlab
from fedlab.errors import BackendError, DataError, Interrupted, UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.report import build
from fedlab.scenario import load
from fedlab.tasks import Task
from fedlab.tasks.datasets.digits import digits
from tests.experiment import crashes
from tests.experiment.crashes import Steps


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fedlab.run(crashes.quick_scenario(), out=out)
    return out


def test_a_kill_at_any_moment_loses_no_bit(whole: Path, tmp_path: Path) -> None:
    """A third of the moments at which the disk holds something else."""
    out = tmp_path / "run"
    scenario = crashes.quick_scenario()
    copies = crashes.moments(lambda: fedlab.run(scenario, out=out), out, tmp_path)
    begun = [copy for copy in copies if (copy / "manifest.json").exists()]
    assert len(begun) > 50 and any((copy / "checkpoints").exists() for copy in begun)
    for copy in begun[::3]:
        fedlab.resume(copy)
        assert crashes.result(copy) == crashes.result(whole), copy
        for line in (copy / "events.jsonl").read_text().splitlines():
            json.loads(line)
        shutil.rmtree(copy)


def stop_at(job: str, step: int, times: int = 1) -> Steps:
    """Presses Ctrl-C when `job` has done `step` steps; a second time when told that the first was heard."""
    pressed = 0

    def act(what: str, done: int) -> None:
        nonlocal pressed
        if (what.startswith(job) and done == step) or (what.startswith("stopping") and pressed < times):
            pressed += 1
            signal.raise_signal(signal.SIGINT)

    return Steps(act)


def interrupted(out: Path, progress: Steps, **changes: Any) -> Path:
    with pytest.raises(Interrupted, match=rf"stopped by the user.*fedlab resume {out}"):
        fedlab.run(crashes.quick_scenario(**changes), out=out, progress=progress)
    assert manifest(out)["status"] == "interrupted"
    return out


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize("rename", [9, 20, 31])
def test_a_process_that_is_killed(whole: Path, tmp_path: Path, rename: int) -> None:
    out = tmp_path / "run"
    child = os.fork()
    if child == 0:
        with crashes.killed_at(rename):
            fedlab.run(crashes.quick_scenario(), out=out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert manifest(out)["status"] == "running"
    assert (out / ".lock.pid").read_text() == f"{child}\n"  # a stale lock is no lock
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(whole)


def test_ctrl_c_ends_the_round_and_resume_goes_on_from_it(tmp_path: Path) -> None:
    progress, checked = stop_at("train dp-sgd", 2), {"privacy": {"check": True}}
    fedlab.run(crashes.quick_scenario(**checked), out=tmp_path / "whole")
    out = interrupted(tmp_path / "run", progress, **checked)
    # Pressed after round 2, heard at the end of round 3, which no rule asks a checkpoint for.
    saved = sorted(path.name for path in (out / "checkpoints/dp-sgd-train-s3").iterdir())
    assert saved[-1] == "round-000003.values.json"
    assert "stopping after this round; Ctrl-C again stops at once" in progress.messages
    listener = Steps()
    fedlab.resume(out, progress=listener)
    assert listener.messages == [
        "train none-train-s3: done before",
        "train dp-sgd-train-s3: goes on after round 3",
        "check dp-sgd-train-s3: 10 checks, no contradiction",
    ]
    assert crashes.result(out) == crashes.result(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 3, times=2))
    saved = sorted(path.name for path in (out / "checkpoints/none-train-s3").iterdir())
    assert saved[-1] == "round-000002.values.json"
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(whole)


def test_ctrl_c_in_the_last_round_ends_the_cell(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 5))
    assert [cell["name"] for cell in manifest(out)["cells"]] == ["none-train-s3"]
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(whole)


def test_attacks_that_are_done_are_kept(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("attack dp-sgd", 1))
    done = out / "attacks/none-train-s3/linear-layer.json"
    before = done.stat().st_mtime_ns
    fedlab.resume(out)
    assert done.stat().st_mtime_ns == before
    assert len(events(out, "attacked")) == 2
    assert crashes.result(out) == crashes.result(whole)


def test_an_interrupted_run_can_be_reported(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train dp-sgd", 2))
    data = build(out).data
    assert data["run"]["status"] == "interrupted"
    assert [row["defense"] for row in data["utility"]] == ["none"]


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    listener = Steps()
    report = fedlab.resume(whole, progress=listener)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert report.data["run"]["status"] == "finished" and "is finished" in listener.messages[0]


def test_without_checkpoints_the_cell_is_trained_again(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train dp-sgd", 3), checkpoint={"every": 0})
    assert not (out / "checkpoints").exists()
    fedlab.resume(out)
    mine, theirs = crashes.result(out), crashes.result(whole)
    for found in (mine, theirs):  # the report names the scenario, which differs
        del found["scenario.toml"], found["report.json"]
    assert mine == theirs


@pytest.mark.parametrize("part", ["safetensors", "values.json", "json"])
def test_a_damaged_checkpoint_costs_a_warning_and_no_bit(whole: Path, tmp_path: Path, part: str) -> None:
    out = interrupted(tmp_path / "run", stop_at("train dp-sgd", 3))
    newest = out / "checkpoints/dp-sgd-train-s3" / f"round-000004.{part}"
    newest.write_bytes(newest.read_bytes()[:-9])
    listener = Steps()
    fedlab.resume(out, progress=listener)
    assert any("the checkpoint of round 4 is damaged" in text for text in listener.messages)
    assert [event["cell"] for event in events(out, "damaged checkpoint")] == ["dp-sgd-train-s3"]
    assert crashes.result(out) == crashes.result(whole)


def test_a_full_disk_fails_the_run_which_can_be_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "run", os.replace

    def full(source: Any, target: Any) -> None:
        if "round-000004" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(BackendError, match=rf"round-000004.*No space left(.|\n)*fedlab resume {out}"):
            fedlab.run(crashes.quick_scenario(), out=out)
    assert manifest(out)["status"] == "failed" and "No space left" in manifest(out)["error"]
    fedlab.resume(out)
    assert "error" not in manifest(out)
    assert crashes.result(out) == crashes.result(whole)


def test_a_changed_scenario_is_refused_with_a_diff(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 2))
    path = out / "scenario.toml"
    text = path.read_text()
    path.write_text(text.replace("rounds = 5", "rounds = 50"))
    with pytest.raises(UsageError, match=r"(?s)-rounds = 5\n\+rounds = 50.*start a new run"):
        fedlab.resume(out)
    path.write_text(text)
    with pytest.raises(UsageError, match=r"(?s)\+seed = 4"):
        fedlab.resume(out, overrides=["seed=4"])
    with pytest.raises(UsageError, match=r"(?s)\+num_gpus = 0.5"):  # another device rounds differently
        fedlab.resume(out, overrides=["runtime.num_gpus=0.5"])
    assert manifest(out)["status"] == "interrupted"


def test_before_the_first_round_what_rounds_may_change_too(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 2))
    for left in ("checkpoints", "privacy", "observations", "models"):
        shutil.rmtree(out / left, ignore_errors=True)
    fedlab.resume(out, overrides=["runtime.chunk=1"])
    assert manifest(out)["chunk_size"] == manifest(out)["scenario"]["runtime"]["chunk"] == 1
    assert load(out / "scenario.toml").runtime.chunk == 1


def test_where_it_runs_may_change(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 3))
    fedlab.resume(out, overrides=["checkpoint.every=1", "runtime.num_cpus=0.5"])
    assert crashes.result(out) == crashes.result(whole)


def test_other_versions_are_refused_unless_forced(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 3))
    changed = manifest(out)
    changed["versions"]["torch"] = "1.0"
    (out / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(BackendError, match=r"torch was 1\.0, is .*--force"):
        fedlab.resume(out)
    fedlab.resume(out, force=True)
    assert manifest(out)["weights_sha256"] == manifest(whole)["weights_sha256"]


def test_other_records_are_refused(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 3))
    changed = manifest(out)
    changed["dataset"]["sha256"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=r"digits is not the one that .* began with.*expected 0000"):
        fedlab.resume(out)


def test_another_trace_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("device,seconds\na,1\nb,2\n")
    out = interrupted(tmp_path / "run", stop_at("train none", 3), devices={"trace": str(trace)})
    trace.write_text("device,seconds\na,1\nb,3\n")
    with pytest.raises(DataError, match=r"trace\.csv was changed"):
        fedlab.resume(out)
    trace.unlink()
    with pytest.raises(DataError, match=r"trace\.csv with which .* began cannot be read"):
        fedlab.resume(out)


def test_a_directory_without_its_scenario_is_damaged(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 2))
    (out / "scenario.toml").unlink()
    with pytest.raises(DataError, match=r"is damaged: scenario\.toml is missing.*manifest\.json holds"):
        fedlab.resume(out)


def test_what_came_from_python_must_come_again(tmp_path: Path) -> None:
    def mean(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return deltas.mean(0)

    scenario, out = crashes.quick_scenario(attacks=[], defenses=[{"name": "none"}]), tmp_path / "run"
    with pytest.raises(Interrupted):
        fedlab.run(scenario, out=out, aggregator=mean, progress=stop_at("train none", 3))
    with pytest.raises(UsageError, match=r"the aggregator of this run \(mean\) came from Python"):
        fedlab.resume(out)
    data = Task(*digits(), network=torch.nn.Flatten)
    with pytest.raises(UsageError, match="has no task from Python"):
        fedlab.resume(out, aggregator=mean, task=data)
    fedlab.resume(out, aggregator=mean)
    fedlab.run(scenario, out=tmp_path / "whole", aggregator=mean)
    assert crashes.result(out) == crashes.result(tmp_path / "whole")


def test_only_one_process_works_on_a_run(whole: Path, tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train none", 3))
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        with RunDirectory.open(out).locked():
            os.write(told, b".")
            signal.pause()
        os._exit(0)
    assert os.read(heard, 1) == b"."
    try:
        with pytest.raises(UsageError, match=rf"is locked by pid {child}, which works on it"):
            fedlab.resume(out)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    fedlab.resume(out)  # its lock died with it
    assert crashes.result(out) == crashes.result(whole)


class Wrapper(Strategy):
    """A defense's wrapper: it can do all that a strategy can, but not be put back."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner

    def configure_train(self, *arguments: Any) -> Any:
        return self.inner.configure_train(*arguments)

    def aggregate_train(self, *arguments: Any) -> Any:
        return self.inner.aggregate_train(*arguments)

    def configure_evaluate(self, *arguments: Any) -> Any:
        return self.inner.configure_evaluate(*arguments)

    def aggregate_evaluate(self, *arguments: Any) -> Any:
        return self.inner.aggregate_evaluate(*arguments)

    def summary(self) -> None: ...


def test_a_strategy_that_cannot_be_put_back_is_trained_again_from_the_start(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoDefense, "strategy", lambda self, inner: Wrapper(inner))
    out = interrupted(tmp_path / "run", stop_at("train none", 3))
    assert not (out / "checkpoints").exists()
    assert "Wrapper has no snapshot()" in events(out, "no checkpoints")[0]["reason"]
    fedlab.resume(out)
    assert crashes.result(out) == crashes.result(whole)


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json; expected the directory of a run"):
        fedlab.resume(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "sta')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        fedlab.resume(tmp_path)


def test_a_privacy_journal_that_was_altered_is_refused(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run", stop_at("train dp-sgd", 3))
    journal = out / "privacy/dp-sgd-train-s3.journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "{}\n", *lines[1:]]))
    with pytest.raises(DataError, match="what this run has spent cannot be told"):
        fedlab.resume(out)
