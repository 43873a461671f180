"""From scenario to report, on digits with a tiny network, in this process and on Ray."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedlab
from fedlab import plugins
from fedlab.audit import Attack, Reconstruction, archive
from fedlab.errors import BackendError, FedlabError, Interrupted, UsageError
from fedlab.tasks import Dataset, Task


def scenario(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 3,
        "name": "tiny",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.5}},
        "clients": {"count": 5, "batch_size": 1, "local_steps": 1},
        "strategy": {"rounds": 6, "cohort": 4, "evaluate_every": 3},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1, 2, 3], "victims": 3},
        "attacks": [{"name": "linear-layer"}],
        "defenses": [{"name": "none"}, {"name": "dp-sgd", "noise_multiplier": 1.0, "max_grad_norm": 0.1}],
    }
    return base | changes


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    fedlab.run(scenario(), out=out)
    return out


def test_the_run_directory_holds_what_the_design_names(finished: Path) -> None:
    assert finished.stat().st_mode & 0o777 == 0o700
    manifest = load(finished / "manifest.json")
    assert manifest["status"] == "finished" and manifest["seeds"] == [3]
    assert set(manifest["weights_sha256"]) == {"none", "dp-sgd"}
    for cell in ("none-train-s3", "dp-sgd-train-s3"):
        for name in (
            f"models/{cell}/model.safetensors",
            f"observations/{cell}/index.json",
            f"truth/{cell}.json",
            f"attacks/{cell}/linear-layer.json",
        ):
            assert (finished / name).is_file(), name
    assert not list(finished.rglob("*.tmp")) and not list(finished.rglob("*.p*kl*"))
    events = [json.loads(line)["event"] for line in (finished / "events.jsonl").read_text().splitlines()]
    assert events == ["started", "trained", "trained", "attacked", "attacked", "finished"]


def test_without_consent_no_pixel_is_kept(finished: Path) -> None:
    assert not list((finished / "truth").glob("*.safetensors"))
    assert not list((finished / "attacks").rglob("*.safetensors"))


def test_the_report_says_what_was_found(finished: Path) -> None:
    report = load(finished / "report.json")
    rows = {row["defense"]: row for row in report["attacks"]}
    assert rows["none"]["psnr_median"] > 90 and rows["none"]["control"]["psnr_median"] < 15
    assert rows["dp-sgd"]["psnr_median"] < 20
    epsilons = {row["defense"]: row["epsilon"] for row in report["guarantees"]}
    assert epsilons["none"] is None and epsilons["dp-sgd"] > 0


def test_under_poisson_sampling_victims_are_single_records(finished: Path) -> None:
    truth = load(finished / "truth/dp-sgd-train-s3.json")
    assert truth["observed"] == 12 and truth["empty"] > 0
    assert all(len(victim["record_ids"]) == 1 for victim in truth["victims"])


def test_observations_hold_what_trained_the_model(finished: Path) -> None:
    seen = archive.load(finished / "observations/none-train-s3")
    assert [o.round for o in seen] == [1] * 4 + [2] * 4 + [3] * 4
    assert len({o.client for o in seen[:4]}) == 4 and all(o.norm() > 0 for o in seen)


def test_modes_and_seeds_are_cells_of_their_own(tmp_path: Path) -> None:
    clients = {"count": 5, "batch_size": 1, "local_steps": 1, "mode": ["train", "eval"]}
    changes = {"clients": clients, "seeds": [1, 2], "defenses": [{"name": "none"}]}
    table = scenario(**changes)
    del table["seed"]
    report = fedlab.run(table, out=tmp_path / "cells")
    manifest = load(tmp_path / "cells/manifest.json")
    hashes = {cell["name"]: cell["weights_sha256"] for cell in manifest["cells"]}
    assert list(hashes) == ["none-train-s1", "none-train-s2", "none-eval-s1", "none-eval-s2"]
    assert len(set(hashes.values())) == 4
    assert [(r["client_mode"], r["victims"]) for r in report.data["attacks"]] == [("train", 6), ("eval", 6)]


def own_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_my_task_and_my_aggregator(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = Dataset(
        "mine", rng.random((40, 1, 4, 4), dtype=np.float32), np.arange(40) % 3, 3, source="made here"
    )
    seen: list[tuple[int, ...]] = []

    def mine(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(deltas.shape))
        return deltas.mean(0)

    table = scenario(defenses=[{"name": "none"}])
    del table["task"]
    report = fedlab.run(table, out=tmp_path / "mine", task=Task(data, data, own_network), aggregator=mine)
    assert report.data["run"]["dataset"]["name"] == "mine"
    assert seen == [(4, 16)] + [(4, 51)] * 6, "a trial, then six rounds"
    assert report.data["attacks"][0]["psnr_median"] > 90


def test_an_aggregator_that_breaks_in_every_round_fails_the_run_and_the_manifest_says_so(
    tmp_path: Path,
) -> None:
    with pytest.raises(FedlabError, match=r"not one of the first 6 rounds .* aggregator broken returned"):

        def broken(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return deltas if deltas.shape[1] > 16 else deltas.mean(0)  # the trial has 16 parameters

        fedlab.run(scenario(), out=tmp_path / "broken", aggregator=broken)
    manifest = load(tmp_path / "broken/manifest.json")
    assert manifest["status"] == "failed" and "aggregator broken" in manifest["error"]
    assert not (tmp_path / "broken/report.json").exists()


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 2:
            raise RuntimeError("this network only probes")
        return self.layer(x.flatten(1))


def test_three_rounds_in_which_everybody_fails_end_the_run(tmp_path: Path) -> None:
    data = Dataset("mine", np.zeros((40, 1, 4, 4), np.float32), np.arange(40) % 3, 3, source="made here")
    with pytest.raises(
        FedlabError, match=r"not one of the first 3 rounds had .*RuntimeError: this network only probes"
    ):
        clients = {"count": 5, "batch_size": 4}
        fedlab.run(scenario(clients=clients), out=tmp_path / "x", task=Task(data, data, Exploding))
    assert "Traceback" in (tmp_path / "x/events.jsonl").read_text()


def test_a_network_without_parameters_is_refused(tmp_path: Path) -> None:
    data = Dataset("mine", np.zeros((40, 1, 4, 4), np.float32), np.arange(40) % 3, 3, source="made here")
    with pytest.raises(UsageError, match="outputs per image; expected"):
        fedlab.run(scenario(), out=tmp_path / "x", task=Task(data, data, nn.Flatten))


class Stopper:
    """Presses Ctrl-C (or sends SIGTERM) in the middle of training."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def start(self, job: str, total: int) -> None: ...

    def advance(self, job: str, done: int, note: str = "") -> None:
        if done == 2:
            signal.raise_signal(self.signum)

    def finish(self, job: str, note: str = "") -> None: ...

    def message(self, text: str) -> None: ...


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_does_not_look_finished(tmp_path: Path, signum: int) -> None:
    with pytest.raises(Interrupted):
        fedlab.run(scenario(), out=tmp_path / "x", progress=Stopper(signum))
    assert load(tmp_path / "x/manifest.json")["status"] == "interrupted"
    assert not (tmp_path / "x/report.json").exists()


def test_a_used_or_unwritable_directory_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        fedlab.run(scenario(), out=finished)
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot be used as a run directory"):
        fedlab.run(scenario(), out=tmp_path / "file" / "x")


def test_observations_that_would_not_fit_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"would take .* MB; audit.max_disk_mb is 0"):
        fedlab.run(scenario(audit={"rounds": [1], "max_disk_mb": 0.001}), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_defenses_that_cannot_work_are_refused_before_training(tmp_path: Path) -> None:
    model = {"name": "mlp", "width": 16, "norm": "batch"}
    with pytest.raises(UsageError, match="dp-sgd cannot protect a network with batch norm"):
        fedlab.run(scenario(task={"dataset": "digits", "model": model}), out=tmp_path / "x")
    with pytest.raises(UsageError, match='no knob "widht"'):
        fedlab.run(scenario(defenses=[{"name": "architecture", "widht": 3}]), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ([np.arange(10)] * 4, "brings 4 clients, but clients.count is 5"),
        ([np.arange(8)] * 4 + [np.array([], dtype=np.int64)], "owners of client 4: no record"),
        ([np.arange(8)] * 4 + [np.array([10**6])], "owners of client 4: ids from 1000000"),
        ([np.arange(8)] * 4 + [np.array([3, 3])], "owners of client 4: a record twice"),
        ([np.arange(8)] * 4 + [np.array([0.5])], "owners of client 4: float64"),
    ],
)
def test_owners_that_cannot_be_are_refused(tmp_path: Path, owners: list[Any], message: str) -> None:
    data = Dataset("mine", np.zeros((40, 1, 4, 4), np.float32), np.arange(40) % 3, 3, source="made here")
    with pytest.raises(UsageError, match=message):
        fedlab.run(scenario(), out=tmp_path / "x", task=Task(data, data, own_network, owners=owners))


def test_objects_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a int; expected a file"):
        fedlab.run(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="task is a int"):
        fedlab.run(scenario(), task=3)  # type: ignore[arg-type]


class Broken(Attack):
    """Answers by breaking its contract, in the way that it is told to."""

    def __init__(self, how: str) -> None:
        self.how = how

    def run(
        self, observations: Any, threat: Any, victim: Any, *, generator: Any, report: Any
    ) -> list[Reconstruction]:
        one = torch.zeros(1, *victim.input_shape)
        if self.how == "raises":
            raise ZeroDivisionError("boom")
        if self.how == "exits":
            raise SystemExit(0)
        if self.how == "edits":
            observations[0].update[next(iter(observations[0].update))].zero_()
        answers = {
            "labels": Reconstruction(images=one, labels=torch.zeros(1, 1)),
            "detail": Reconstruction(images=one, details={"g": np.float32(2)}),  # type: ignore[dict-item]
            "residual": Reconstruction(images=one, residual=torch.tensor(1.0)),  # type: ignore[arg-type]
        }
        return [answers.get(self.how, Reconstruction(images=one))] * len(observations)


@pytest.mark.parametrize("how", ["raises", "exits", "labels", "detail", "residual"])
def test_a_broken_attack_is_a_failed_attack_and_the_audit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real = plugins.build

    def build(kind: str, spec: Any, *args: Any, **params: Any) -> Any:
        broken = kind == "attacks" and getattr(spec, "label", "") == "broken"
        return Broken(how) if broken else real(kind, spec, *args, **params)

    monkeypatch.setattr(plugins, "build", build)
    attacks = [{"name": "label-recovery", "label": "broken"}, {"name": "linear-layer"}]
    fedlab.run(scenario(attacks=attacks, defenses=[{"name": "none"}]), out=tmp_path / "x")
    broken = load(tmp_path / "x/attacks/none-train-s3/broken.json")
    assert broken["failed"] and "the attack failed" in broken["error"] and broken["victims"] == []
    assert len(load(tmp_path / "x/attacks/none-train-s3/linear-layer.json")["victims"]) == 3


def test_what_one_attack_does_to_its_observations_does_not_reach_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plugins.build

    def build(kind: str, spec: Any, *args: Any, **params: Any) -> Any:
        edits = kind == "attacks" and getattr(spec, "label", "") == "edits"
        return Broken("edits") if edits else real(kind, spec, *args, **params)

    monkeypatch.setattr(plugins, "build", build)
    attacks = [{"name": "label-recovery", "label": "edits"}, {"name": "linear-layer"}]
    audit = {"rounds": [1, 2, 3], "victims": 3, "include_samples": True}
    table = scenario(attacks=attacks, audit=audit, defenses=[{"name": "none"}])
    report = fedlab.run(table, out=tmp_path / "x")
    recovered = {row["attack"]: row["recovered"] for row in report.data["attacks"]}
    assert recovered == {"edits": 0, "linear-layer": 3}


@pytest.mark.parametrize("rate", [1e25, 1e30])
def test_divergence_is_called_divergence(tmp_path: Path, rate: float) -> None:
    clients = {"count": 5, "batch_size": 1, "local_steps": 1, "learning_rate": rate}
    with pytest.raises(FedlabError, match="training diverged"):
        fedlab.run(scenario(clients=clients, strategy={"rounds": 60, "cohort": 4}), out=tmp_path / "x")


def test_sigma_zero_runs_and_has_no_guarantee(tmp_path: Path) -> None:
    defenses = [{"name": "dp-sgd", "noise_multiplier": 0.0}]
    report = fedlab.run(scenario(defenses=defenses), out=tmp_path / "x")
    assert report.data["guarantees"][0]["epsilon"] is None
    assert "clipping alone" in report.data["guarantees"][0]["reason"]


@pytest.mark.ray
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_on_ray_does_not_look_finished(tmp_path: Path, signum: int) -> None:
    with pytest.raises(Interrupted):
        runtime = {"executor": "ray", "workers": 1}
        fedlab.run(scenario(runtime=runtime), out=tmp_path / "x", progress=Stopper(signum))
    assert load(tmp_path / "x/manifest.json")["status"] == "interrupted"


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if "observations" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BackendError, match=r"cannot write .*observations.*: No space left on device"):
        fedlab.run(scenario(), out=tmp_path / "x")
    assert load(tmp_path / "x/manifest.json")["status"] == "failed"
    assert not list((tmp_path / "x").rglob("*.tmp"))
