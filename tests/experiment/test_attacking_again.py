"""`fedlab.attack` on a run that has finished: what it adds, what it leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedlab
from fedlab import plugins
from fedlab.audit import Attack, Observation, Reconstruction
from fedlab.errors import DataError, Interrupted, ScenarioError, UnknownName, UsageError
from fedlab.experiment.asked import attack_entry, threat_entries
from fedlab.experiment.directory import RunDirectory
from fedlab.scenario import load
from fedlab.tasks import Dataset, Task

SMALL: dict[str, Any] = {
    "schema": 1,
    "seeds": [5, 6],
    "name": "again",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16, "depth": 1}},
    "clients": {"count": 6, "batch_size": 1, "local_steps": 1},
    "strategy": {"rounds": 2, "cohort": 3},
    "runtime": {"executor": "inline"},
    "audit": {"rounds": [1, 2], "victims": 3, "adaptive": False},
    "attacks": [{"name": "linear-layer"}],
    "threats": [{"label": "blind", "batch_size": False}],
    "defenses": [{"name": "none"}, {"name": "gradient-pruning", "label": "pruned", "ratio": 0.5}],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("again") / "run"
    fedlab.run(SMALL, out=out)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to attack."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def state(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def labels(report: Any) -> set[tuple[str, str]]:
    return {(row["attack"], row["threat_label"]) for row in report.data["attacks"]}


def test_it_adds_answers_for_every_cell_and_the_same_call_adds_nothing(run: Path) -> None:
    before = state(run)
    report = fedlab.attack(run, attacks=["label-recovery:label=counts"], threats=["labels=true"])
    assert labels(report) == {
        ("linear-layer", ""),
        ("linear-layer", "blind"),
        ("counts", ""),
        ("counts", "with-labels"),
    }
    after = state(run)
    added = set(after) - set(before)
    cells = [f"{defense}-train-s{seed}" for defense in ("none", "pruned") for seed in (5, 6)]
    assert added == {
        f"attacks/{cell}/counts{threat}.json" for cell in cells for threat in ("", "@with-labels")
    }
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json", "events.jsonl", "report.json", "report.html"}, "nothing is trained"
    assert report.data["run"]["status"] == "finished"
    rows = [row for row in report.data["attacks"] if row["attack"] == "counts"]
    assert {(row["defense"], row["victims"]) for row in rows} == {("none", 6), ("pruned", 6)}
    fedlab.attack(run, attacks=["label-recovery:label=counts"], threats=["labels=true"])
    assert state(run) == after


def test_answers_are_those_that_the_run_itself_would_have_given(run: Path) -> None:
    """The seed tree is the same, whoever asks and when."""
    for path in (run / "attacks").rglob("linear-layer*.json"):
        path.rename(path.with_name("kept-" + path.name))
    kept = {path.parent.name + path.name: path.read_bytes() for path in run.rglob("kept-*.json")}
    for path in run.rglob("kept-*.json"):
        path.unlink()
    fedlab.attack(run, attacks=["linear-layer"])
    found = {
        path.parent.name + "kept-" + path.name: path.read_bytes() for path in run.rglob("linear-layer*.json")
    }
    assert found == kept and len(found) == 8, "two threats in four cells"


def test_each_piece_of_knowledge_is_given_or_taken_away_in_turn(run: Path) -> None:
    report = fedlab.attack(run, attacks=["linear-layer"], threats=["each"])
    # No dropout, no batch norm: what is known of them can make no difference. "blind" is without-batch-size.
    assert {label for _, label in labels(report)} == {
        "",
        "blind",
        "with-labels",
        "with-proxy-data",
        "without-client-mode",
        "without-defense",
        "without-learning-rate",
        "without-local-steps",
        "without-momentum",
    }
    assert len(report.data["knowledge"]) == 2, "a table per defense"
    after = state(run)
    fedlab.attack(run, attacks=["linear-layer"], threats=["each"])
    assert state(run) == after


class Stopping(Attack):
    """Answers one job, and is then stopped with Ctrl-C."""

    jobs = 0

    def run(self, observations: Sequence[Observation], *_: Any, **__: Any) -> list[Reconstruction]:
        type(self).jobs += 1
        if type(self).jobs == 3:  # a job has two halves: victims and controls
            raise KeyboardInterrupt
        return [Reconstruction(labels=torch.zeros(1, dtype=torch.int64)) for _ in observations]


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load_plugin = plugins.load

    def loads(kind: str, name: str) -> Any:
        return Stopping if (kind, name) == ("attacks", "random-gradient") else load_plugin(kind, name)

    monkeypatch.setattr(plugins, "load", loads)
    Stopping.jobs = 0
    yield


@pytest.mark.usefixtures("stopping")
def test_what_a_stopped_call_left_undone_the_same_call_finishes(run: Path) -> None:
    with pytest.raises(Interrupted, match="give the same command again"):
        fedlab.attack(run, attacks=["random-gradient"])
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    assert len(list(run.rglob("random-gradient*.json"))) == 1
    report = fedlab.attack(run, attacks=["random-gradient"])
    assert len(list(run.rglob("random-gradient*.json"))) == 8
    assert ("random-gradient", "blind") in labels(report)


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    with pytest.raises(UsageError, match=r"marked interrupted; .*fedlab resume"):
        fedlab.attack(run, attacks=["linear-layer"])


def test_a_run_that_somebody_works_on_is_left_alone(run: Path) -> None:
    with RunDirectory.open(run).locked(), pytest.raises(UsageError, match="is locked by pid"):
        fedlab.attack(run, attacks=["linear-layer"])


def test_without_observations_or_truth_nothing_is_attacked(run: Path) -> None:
    before = state(run)
    truth = run / "truth/none-train-s5.json"
    kept = truth.read_text()
    truth.unlink()
    with pytest.raises(DataError, match="nobody knows which records are behind"):
        fedlab.attack(run, attacks=["label-recovery"])
    truth.write_text(kept.replace('"client": ', '"client": 1'))
    with pytest.raises(DataError, match="are not those that the run wrote down"):
        fedlab.attack(run, attacks=["label-recovery"])
    truth.write_text(kept)
    shutil.rmtree(run / "observations/none-train-s5")
    with pytest.raises(DataError, match="observations of none-train-s5 were deleted"):
        fedlab.attack(run, attacks=["label-recovery"])
    fedlab.attack(run, attacks=["linear-layer"])  # all of it was done before
    assert set(before) - set(state(run)) == {
        name for name in before if name.startswith("observations/none-train-s5")
    }


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"attacks": ["linear-layr"]}, ScenarioError, 'Did you mean "linear-layer"'),
        ({"attacks": ["inverting-gradients:iteration=3"]}, ScenarioError, 'Did you mean "iterations"'),
        ({"attacks": ["inverting-gradients:iterations=0"]}, ScenarioError, "iterations"),
        ({"attacks": ["linear-layr"]}, ScenarioError, r"--attack linear-layr: 1 mistake\n  name: no attack"),
        ({"attacks": [{"name": "x"}]}, ScenarioError, r"attack \{'name': 'x'\}: 1 mistake"),
        (
            {"attacks": ["cascade:samples=0"]},
            ScenarioError,
            "attack: Cascade: samples = 0; expected at least 1",
        ),
        ({"attacks": ["inverting-gradients:iterations"]}, UsageError, "expected key=value"),
        ({"attacks": [":a=1"]}, UsageError, "expected NAME"),
        ({"threats": ["orcle"]}, UnknownName, 'Did you mean "oracle"'),
        ({"threats": ["labls=true"]}, ScenarioError, 'Did you mean "labels"'),
        ({"threats": ["label=true"]}, ScenarioError, r'--threat label=true(.|\n)*Did you mean "labels"'),
        ({"threats": ["labels=7"]}, ScenarioError, "got 7; expected true or false"),
        ({"threats": ["oracle,labels"]}, UsageError, "expected key=value"),
        ({"overrides": ["strategy.rounds=3"]}, UsageError, "is not the one that this run began with"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_happens(
    finished: Path, asked: Any, error: type[Exception], message: str
) -> None:
    before = state(finished)
    with pytest.raises(error, match=message):
        fedlab.attack(finished, **{"attacks": ["linear-layer"], **asked})
    assert state(finished) == before


def test_what_came_from_python_is_asked_for_again(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = Dataset(
        "mine", torch.rand(40, 1, 4, 4, generator=generator).numpy(), torch.arange(40).numpy() % 3, 3, "here"
    )
    task = Task(data, data, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    table = {key: value for key, value in SMALL.items() if key not in ("task", "seeds", "defenses")}
    fedlab.run(table | {"attacks": []}, out=tmp_path / "run", task=task)
    with pytest.raises(UsageError, match=r"fedlab\.attack\(.*task="):
        fedlab.attack(tmp_path / "run", attacks=["linear-layer"])
    report = fedlab.attack(tmp_path / "run", attacks=["linear-layer"], threats=["proxy"], task=task)
    assert all(row["psnr_median"] > 60 for row in report.data["attacks"])
    proxied = [row for row in report.data["attacks"] if row["threat_label"] == "proxy"]
    assert proxied and not any(row["threat"]["proxy_data"] for row in proxied), "its test set is its clients'"


def test_words_become_entries() -> None:
    scenario = load(SMALL)
    assert attack_entry("linear-layer", scenario) == {"name": "linear-layer", "label": "linear-layer"}
    entry = attack_entry("inverting-gradients:iterations=3,restarts=2", scenario)
    assert entry == {
        "label": "inverting-gradients",
        "name": "inverting-gradients",
        "iterations": 3,
        "restarts": 2,
    }
    assert attack_entry("linear-layer:batches=[1, 2]", scenario)["label"] == "linear-layer-batches-1-2"
    assert threat_entries("protocol", scenario) == [{"label": ""}], "that is the run's own attacker"
    assert threat_entries("batch_size=false", scenario) == [{"label": "blind"}], "it has that one already"
    assert threat_entries("oracle,sums=true", scenario) == [
        {"label": "oracle-with-sums", "level": "oracle", "sums": True}
    ]
    assert threat_entries("label=mine,server=malicious", scenario) == [
        {"label": "mine", "server": "malicious"}
    ]
    assert len(threat_entries("each", scenario)) == 11
