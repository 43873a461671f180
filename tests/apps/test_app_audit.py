"""From an app that ran to a run directory with scores, and to a report that says how much is recovered."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app_by_hand import batches, numbered, ran_by_hand
from torch import nn

from fedlab.apps import trying
from fedlab.apps.asked import Asked, plain, toml_of, training_of
from fedlab.apps.audit import audit_app
from fedlab.apps.contract import Ran
from fedlab.apps.facts import Facts, infer
from fedlab.apps.folder import AppFolder
from fedlab.apps.given import Adapter, given
from fedlab.apps.measured import measured
from fedlab.apps.recorded import observations, used
from fedlab.errors import UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.progress import Quiet
from fedlab.report import AuditReport, build
from fedlab.scenario import load
from fedlab.tasks import FunctionalModel

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pytorch-cnn"
SHAPE = (1, 6, 6)
QUICK = ("cascade:iterations=10", "label-recovery")


def folder(path: Path, audit: dict[str, object] | None = None) -> AppFolder:
    return AppFolder(path, "my app", "a:app", "b:app", {}, audit=audit)


def audited(ran: Ran, path: Path, attacks: tuple[str, ...] = QUICK) -> AuditReport:
    """What `audit_app` does with an app that ran."""
    facts = infer(ran, Adapter())
    asked = Asked("my-app", len(ran.sights), (1,), attacks, True)
    directory = RunDirectory.create(path / "run", "my-app")
    directory.update_manifest(name="my-app", claim="", objects={}, versions={}, seeds=[0], cells=[])
    written = trying.described(directory, folder(path), asked, ran, facts)
    if facts.view is None:
        trying.unattacked(directory, written, ran, facts)
    else:
        trying.attacked(directory, written, ran, facts, facts.view, Quiet())
    return build(directory.path, status="finished")


def row(report: AuditReport, attack: str) -> dict[str, object]:
    (found,) = [one for one in report.data["attacks"] if one["attack"] == attack]
    return dict(found)


class TestWhatIsRecovered:
    def test_one_record_one_step_behind_a_biased_linear_layer_is_recovered_exactly(
        self, tmp_path: Path
    ) -> None:
        """dW_k / db_k is the record (Phong et al. 2018), whatever normalisation stands before the layer."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10))
        clients = [
            [(2.0 * inputs - 1.0, labels) for inputs, labels in batches([1], SHAPE, seed=seed)]
            for seed in range(3)
        ]
        report = audited(ran_by_hand(net, clients, names=numbered), tmp_path)
        found = row(report, "cascade")
        assert found["recovered"] == found["images"] == 3
        assert found["psnr_median"] > 60.0  # type: ignore[operator]
        assert found["control"]["recovered"] == 0  # type: ignore[index]
        assert report.data["app"]["obstacles"] == []
        page = report.html.read_text()
        assert "How the app was read" in page and "mean 0.5, deviation 0.5" in page

    def test_a_batch_behind_a_convolution_is_honestly_not(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
        )
        ran = ran_by_hand(net, [batches([8, 8], SHAPE, seed=seed) for seed in range(2)])
        report = audited(ran, tmp_path, ("cascade:iterations=5",))
        found = row(report, "cascade")
        assert (found["recovered"], found["images"]) == (0, 32)
        assert "did not recover an image" in report.data["verdict"]["headline"]

    def test_an_app_that_cannot_be_attacked_says_why_and_scores_nothing(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
        ran = ran_by_hand(net, [batches([4], SHAPE)], optimizer=torch.optim.Rprop)
        report = audited(replace(ran, metrics={}, failed=1, failure="Boom <b>"), tmp_path)
        assert report.data["attacks"] == []
        assert "Rprop" in report.data["app"]["obstacles"][0]
        page = report.html.read_text()
        assert "Not attacked" in page and "Boom &lt;b&gt;" in page
        assert (report.directory / "observations").is_dir()

    def test_a_head_that_stays_with_the_clients(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10))
        ran = ran_by_hand(
            net, [batches([1], SHAPE, seed=seed) for seed in range(2)], own=["3.weight", "3.bias"]
        )
        report = audited(ran, tmp_path, ("label-recovery",))
        assert "stays with the clients" in {one["name"] for one in report.data["app"]["facts"]}
        assert row(report, "label-recovery")["level"] == "refused"


class TestShippedExample:
    """The same app twice, as it is run by `fedlab audit-app`: what its settings make of it."""

    def test_one_record_and_one_step(self, tmp_path: Path) -> None:
        report = audit_app(
            EXAMPLE,
            run_config='model="mlp" batch-size=1 max-steps=1',
            supernodes=3,
            rounds=1,
            attacks=("cascade:iterations=0",),
            out=tmp_path / "run",
        )
        found = row(report, "cascade")
        assert found["recovered"] == found["images"] == 3
        assert any(one["unique"] for one in found["certificates"])  # type: ignore[attr-defined]
        assert report.data["run"]["status"] == "finished"

    def test_batches_of_32_behind_a_convolution(self, tmp_path: Path) -> None:
        report = audit_app(
            EXAMPLE,
            supernodes=3,
            rounds=1,
            attacks=("inverting-gradients:iterations=3",),
            out=tmp_path / "run",
        )
        found = row(report, "inverting-gradients")
        assert found["recovered"] == 0 and found["images"] == 3 * 479
        assert "did not recover an image" in report.data["verdict"]["headline"]


def facts_of(ran: Ran) -> Facts:
    return infer(ran, Adapter())


class TestRecords:
    def test_a_record_that_is_used_again_keeps_its_number(self) -> None:
        once = batches([2, 2], SHAPE)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
        ran = ran_by_hand(net, [[*once, *once], once[:1]])
        facts = facts_of(ran)
        assert facts.view is not None
        found = used(ran, facts.view, "x")
        assert len(found.data) == 4
        assert [one.tolist() for one in found.steps[1, 0]] == [[0, 1], [2, 3], [0, 1], [2, 3]]
        assert [one.tolist() for one in found.steps[1, 1]] == [[0, 1]]

    def test_observations_are_the_messages_in_the_networks_words(self) -> None:
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 10))
        ran = ran_by_hand(net, [batches([4], SHAPE)], names=numbered)
        facts = facts_of(ran)
        assert facts.view is not None
        model = FunctionalModel(facts.view.network, SHAPE)
        (seen,) = observations(ran, facts.told, facts.view, model)
        assert list(seen.update) == list(model.parameter_names)
        assert set(seen.buffers_after) == {"network.1.running_mean", "network.1.running_var"}
        sent, back = ran.sights[0].before["0"], ran.sights[0].after["0"]
        assert torch.equal(seen.update["network.0.weight"], torch.tensor(back - sent))
        assert seen.examples == 4


class TestAsked:
    def test_the_scenario_says_what_is_known_and_nothing_else(self) -> None:
        ran = ran_by_hand(nn.Sequential(nn.Flatten(), nn.Linear(36, 10)), [batches([4], SHAPE)])
        facts = facts_of(ran)
        asked = Asked("my-app", 7, (1, 2), QUICK)
        known = training_of(ran, facts)
        text = toml_of(asked.scenario("train", known, rounds=3), known)
        again = load(tomllib.loads(text))
        assert (again.clients.count, again.strategy.rounds, again.audit.rounds) == (7, 3, (1, 2))
        assert (again.clients.batch_size, again.clients.learning_rate) == (4, 0.1)
        assert "partition" not in text and "fedavg" not in text

    @pytest.mark.parametrize(
        "asked",
        [
            Asked("x", 0, (1,), QUICK),
            Asked("x", 3, (), QUICK),
            Asked("x", 3, (0,), QUICK),
            Asked("x", 3, (1,), ("no-such-attack",)),
            Asked("x", 3, (1,), ("cascade:iterations=-1",)),
        ],
    )
    def test_mistakes_are_told_before_anything_runs(self, asked: Asked) -> None:
        with pytest.raises(UsageError):
            asked.check()

    def test_names_that_files_may_have(self) -> None:
        assert (plain("my app/1"), plain("..."), plain("a" * 99)) == ("my-app-1", "app", "a" * 64)


class TestMeasured:
    def ran(self, metrics: dict[int, dict[str, float]]) -> Ran:
        return Ran([], {}, metrics, {}, 1, 0, 0, "", [])

    def test_accuracy_and_loss_of_evaluation_come_before_those_of_training(self) -> None:
        row = {"train_acc": 0.9, "eval_acc": 0.6, "train_loss": 0.1, "loss": 0.7}
        found = measured(self.ran({1: row}))
        assert (found["accuracy"], found["loss"]) == (0.6, 0.7)

    @pytest.mark.parametrize("metrics", [{}, {1: {"accuracy": math.nan}}, {1: {"accuracy": 61.0}}])
    def test_no_share_is_no_accuracy(self, metrics: dict[int, dict[str, float]]) -> None:
        assert measured(self.ran(metrics))["accuracy"] is None


class TestGiven:
    def test_a_table(self, tmp_path: Path) -> None:
        found = given(folder(tmp_path, {"input-shape": [1, 8, 8], "pixel-low": -1, "pixel-high": 1.0}))
        assert found == Adapter(input_shape=(1, 8, 8), pixel_low=(-1.0,), pixel_high=(1.0,))
        assert given(folder(tmp_path)) == Adapter()

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ({"input-shap": [1, 8, 8]}, "input-shape"),
            ({"pixel-low": 0.0}, "go together"),
            ({"pixel-low": 1.0, "pixel-high": 0.0}, "above"),
            ({"input-shape": [1, 0, 8]}, "input-shape"),
            ({"loss": "hinge"}, "cross-entropy"),
            ({"adapter": "nothing"}, "module:function"),
            ({"adapter": "no_such_module_here:x"}, "ModuleNotFoundError"),
            ({"adapter": "x:y", "loss": "cross-entropy"}, "in the adapter"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, table: dict[str, object], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            given(folder(tmp_path, table))

    def test_an_adapter_of_five_lines(self, tmp_path: Path) -> None:
        (tmp_path / "own_adapter_module.py").write_text(
            "from torch import nn\n"
            "from fedlab.apps import Adapter\n"
            "def adapter():\n"
            "    return Adapter(network=lambda: nn.Linear(2, 2), names=('weight', 'bias'))\n"
        )
        found = given(folder(tmp_path, {"adapter": "own_adapter_module:adapter"}))
        assert found.names == ("weight", "bias") and found.network is not None


def test_app_json_is_strict_json(tmp_path: Path) -> None:
    ran = ran_by_hand(nn.Sequential(nn.Flatten(), nn.Linear(36, 10)), [batches([1], SHAPE)])
    report = audited(ran, tmp_path, ("label-recovery",))
    told = json.loads((report.directory / "app.json").read_text())
    assert told["facts"][0]["sure"] == "recorded" and told["output"] == ["hello"]
