"""Recordings of apps, and attacks on them: what is recovered is the records, though nobody tells them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from fedlab.apps.architecture import FromPixels
from fedlab.apps.contract import Sight
from fedlab.apps.facts import View
from fedlab.apps.pixels import stated
from fedlab.apps.recorded import bare
from fedlab.apps.tap import CELL, NAME, attack_recording
from fedlab.apps.tap.recording import Recording
from fedlab.apps.tap.translated import translated
from fedlab.apps.tap.watching import Watch
from fedlab.audit import KnownConfig, archive
from fedlab.errors import BadGate, MissingFacts, UsageError
from fedlab.report import build
from fedlab.runtime._flower import enter_run
from fedlab.tasks import FunctionalModel
from tests.apps.tap_by_hand import EXACT, EXAMPLES, arrays, recorded, stating

CNN = EXAMPLES / "pytorch-cnn"
DIGITS = "input-shape = [1, 8, 8]\npixel-low = -1.0\npixel-high = 1.0\n"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clients, one record and one step each, rounds 1 and 2."""
    out = tmp_path_factory.mktemp("tap") / "run"
    recorded(CNN, out, EXACT, observe=(1, 2))
    return out


@pytest.fixture
def run(recording: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recording, tmp_path / "run"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stating(CNN, tmp_path_factory.mktemp("app") / "app", DIGITS)


def test_a_tap_changes_nothing(tmp_path: Path) -> None:
    """The server sends the same bytes in each round, whether or not somebody listens."""
    heard = recorded(CNN, tmp_path / "heard", EXACT)
    alone = recorded(CNN, tmp_path / "alone", EXACT, mute=True)
    assert len(heard) == 4 and [arrays(one) for one in heard] == [arrays(one) for one in alone]


def test_a_recording_that_fails_changes_nothing(tmp_path: Path) -> None:
    news: list[str] = []

    def told(**one: Any) -> None:
        news.append(one["kind"])
        (tmp_path / "run" / "observations").write_text("no folder any more")

    sent = recorded(CNN, tmp_path / "run", EXACT, told=told)
    assert news == ["round", "fault", "ended"], "after a fault nothing is watched"
    assert len(sent) == 4, "the run goes on to its end"
    about = json.loads((tmp_path / "run" / NAME).read_text())
    assert about["kept"] == [] and "observations" in about["fault"]


def test_what_is_recorded(recording: Path) -> None:
    found = Recording.load(recording)
    assert [(one.round, one.client) for one in found.seen] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert found.told[2] == {"lr": 0.3, "server-round": 2}
    assert [one["num-examples"] for one in found.metrics] == [719, 718] * 2
    about = found.about
    assert (about["rounds"], about["clients"], about["replies"], about["failed"]) == (2, 2, 4, 0)
    assert about["arrays"] == ["1.weight", "1.bias", "3.weight", "3.bias"], "in the order of the message"
    assert about["configuration"]["model"] == "mlp"


def test_records_are_recovered_and_proved_without_truth(run: Path, app: Path) -> None:
    """By hand: the first layer's gradient is (cotangent) x^T, its bias' the cotangent: a division gives x."""
    report = attack_recording(run, app, attacks=["cascade:iterations=1"], include_samples=True)
    found = report.data["deployment"]
    rows = found["attacks"][0]["victims"]
    assert len(rows) == 4 and all(row["holds"] and row["images"] == 1 for row in rows)
    assert all(row["replayed"] < 1e-4 for row in rows)
    assert all(row["residual"] < 1e-4 < 1e-2 < row["null_residual"] for row in rows)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, digits.target
    kept = load_file(run / "attacks" / CELL / "cascade.safetensors")
    for row in rows:
        image = kept[f"victim/{row['round']}-{row['client']}"][0, 0]
        distance = (images - image).abs().amax(dim=(1, 2))
        assert float(distance.min()) < 1e-4, "it is one of the records"
        assert row["labels"] == [int(labels[int(distance.argmin())])]
    assert "4 of 4 attacked updates" in report.data["verdict"]["headline"]


def test_the_report_has_no_score(run: Path, app: Path) -> None:
    report = attack_recording(run, app, attacks=["cascade:iterations=1", "label-recovery"])
    data = report.data
    assert data["attacks"] == [] and data["membership"] == [] and data["verdict"]["findings"] == []
    assert "nobody here knows the clients' records" in data["limits"][0]
    facts = {one["name"]: one for one in data["deployment"]["facts"]}
    assert facts["network"]["source"] == "made by the ServerApp's own code before its first message"
    assert facts["learning rate"]["source"] == "the message to the client says lr = 0.3"
    assert facts["local steps"]["value"] == "1" and "local epochs" not in facts
    assert facts["loss"]["sure"] == facts["client mode"]["sure"] == "assumed"
    labels = [row["labels"] for row in data["deployment"]["attacks"][1]["victims"]]
    assert labels == [row["labels"] for row in data["deployment"]["attacks"][0]["victims"]]
    page = report.html.read_text()
    assert "There is no ground truth" in page and "data:image/png" not in page
    assert not list(run.rglob("attacks/**/*.safetensors")), "images are kept only when that is asked for"
    assert json.loads((run / "truth" / f"{CELL}.json").read_text())["victims"] == []
    shown = attack_recording(run, app, attacks=["cascade:iterations=1"], include_samples=True)
    assert "data:image/png" in shown.html.read_text()
    assert [one["attack"] for one in shown.data["deployment"]["attacks"]] == ["cascade", "label-recovery"]


def test_gates_on_scores_are_refused_by_name(run: Path) -> None:
    for gate in (
        "attack.cascade.psnr_median > 20",
        "attack.*.label_accuracy > 0.5",
        "utility.accuracy < 0.9",
    ):
        with pytest.raises(BadGate, match="recorded on a deployment, whose clients' records nobody knows"):
            build(run, fail_on=[gate])
    assert build(run, fail_on=["privacy.epsilon > 8"]).data["gates"][0]["verdict"] == "failed"


def test_what_is_missing_is_asked_for_at_once_and_the_recording_stays(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(MissingFacts) as caught:
        attack_recording(run, CNN)
    text = str(caught.value)
    assert "[tool.fedlab.audit]\ninput-shape" in text and "pixel-low" in text and "pixel-high" in text
    assert f"fedlab attack {run} --app {CNN}" in text
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_other_facts_remove_the_answers_of_the_first(run: Path, app: Path, tmp_path: Path) -> None:
    attack_recording(run, app, attacks=["label-recovery"])
    other = stating(CNN, tmp_path / "other", DIGITS + 'batch-size = 1\nmode = "eval"\nlearning-rate = 0.3\n')
    report = attack_recording(run, other, attacks=["cascade:iterations=1"])
    assert [one["attack"] for one in report.data["deployment"]["attacks"]] == ["cascade"]
    facts = {one["name"]: one for one in report.data["deployment"]["facts"]}
    assert facts["client mode"]["value"] == "evaluation mode" and facts["client mode"]["sure"] == "stated"
    assert facts["learning rate"]["source"] == facts["batch size"]["source"] == "stated by the app's author"


def test_a_wrong_fact_shows_in_the_residual(run: Path, tmp_path: Path) -> None:
    """Black is -1, and said to be 0: what was fed is proved all the same, but images are cut off at 0."""
    wrong = stating(CNN, tmp_path / "wrong", DIGITS.replace("-1.0", "0.0"))
    report = attack_recording(run, wrong, attacks=["cascade:iterations=1"])
    rows = report.data["deployment"]["attacks"][0]["victims"]
    assert all(row["unique"] and not row["holds"] and row["replayed"] > 0.1 for row in rows)
    assert "Is the range of the pixels right?" in report.data["verdict"]["headline"]


def test_a_proof_that_no_replay_could_check_rests_on_an_assumption(run: Path, app: Path) -> None:
    """The signs of a gradient of one record have rank one, too: other steps than those that are assumed."""
    attack_recording(run, app, attacks=["cascade:iterations=1"])
    path = run / "attacks" / CELL / "cascade.json"
    found = json.loads(path.read_text())
    found["victims"][0]["replayed"] = None
    path.write_text(json.dumps(found))
    report = build(run)
    headline = report.data["verdict"]["headline"]
    assert "if clients take plain steps of SGD. For 1 of them that is assumed" in headline
    assert "its server can see them" not in headline
    assert report.html.read_text().count("which no replay could check") == 1


@pytest.mark.parametrize(
    ("wish", "told"), [("membership-lira", "nobody knows any"), ("no-such-attack", "no attack is called")]
)
def test_attacks_that_cannot_work_on_a_recording(run: Path, app: Path, wish: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        attack_recording(run, app, attacks=[wish])


def test_an_app_of_the_older_kind(tmp_path: Path) -> None:
    """A NumPyClient's arrays have numbers for names, and its server's code is another."""
    out = tmp_path / "run"
    configuration = {"num-server-rounds": 1, "local-epochs": 1, "batch-size": 718}
    recorded(EXAMPLES / "numpyclient", out, configuration)
    assert Recording.load(out).about["arrays"][:2] == ["0", "1"]
    app = stating(EXAMPLES / "numpyclient", tmp_path / "app", DIGITS)
    report = attack_recording(out, app, attacks=["label-recovery"])
    facts = {one["name"]: one for one in report.data["deployment"]["facts"]}
    assert facts["network"]["value"].startswith("Net") and facts["names"]["sure"] == "assumed"
    assert facts["local epochs"]["value"] == "1"


def test_a_recording_that_holds_nothing(run: Path, app: Path) -> None:
    about = json.loads((run / NAME).read_text())
    (run / NAME).write_text(json.dumps(about | {"kept": []}))
    with pytest.raises(UsageError, match="nothing was recorded in rounds"):
        attack_recording(run, app)
    with pytest.raises(UsageError, match="no recording of a deployment"):
        (run / NAME).unlink()
        attack_recording(run, app)


def message(node: int, *, value: float = 0.0, round_: int = 1, number: int = 0) -> Message:
    enter_run()
    content = RecordDict({"arrays": ArrayRecord({"w": torch.full((2,), value)})})
    made = Message(content, node, "train", group_id=str(round_))
    made.metadata.__dict__["_message_id"] = f"{node}-{round_}-{number}"
    return made


def reply(to: Message, content: RecordDict | Error) -> Message:
    return Message(content, reply_to=to)


def trained(to: Message, **others: torch.Tensor) -> Message:
    arrays = {"w": torch.tensor([1.0, 2.0])} | others
    content = {
        "arrays": ArrayRecord(arrays),
        "metrics": MetricRecord({"num-examples": 3, "loss": float("nan")}),
    }
    return reply(to, RecordDict(content))


def watching(directory: Path, *observe: int) -> Watch:
    watch = Watch(directory, frozenset(observe), lambda **news: None)
    watch.began({"configuration": {"lr": float("inf")}})
    return watch


def test_what_no_archive_can_hold_is_left_out_and_counted(tmp_path: Path) -> None:
    watch = watching(tmp_path, 1)
    sent = [message(11), message(12, value=5.0), message(13), message(14), message(15)]
    watch.sent([one.metadata.message_id for one in sent], sent)
    watch.arrived([trained(sent[0]), trained(sent[1])])  # another model than the first's
    share = RecordDict({"shares": ArrayRecord({"masked": torch.zeros(9)})})
    watch.arrived([reply(sent[2], share), reply(sent[3], Error(7, "out of memory"))])
    watch.arrived([trained(sent[4])])
    assert not watch.fault
    about = json.loads((tmp_path / NAME).read_text())
    assert about["left_out"] == {"other_model": 1, "no_update": 1}
    assert (about["replies"], about["failed"], about["failure"]) == (5, 1, "out of memory")
    assert [(one["round"], one["client"]) for one in about["kept"]] == [(1, 0), (1, 4)]
    assert about["kept"][0]["metrics"] == {"num-examples": 3, "loss": "nan"}, "strict JSON"
    assert about["configuration"] == {"lr": "inf"} and about["nodes"]["4"] == "15"
    first, last = archive.load(tmp_path / "observations" / CELL)
    assert first.update["w"].tolist() == last.update["w"].tolist() == [1.0, 2.0] and first.examples == 3


def test_rounds_that_are_not_observed_are_counted_and_not_kept(tmp_path: Path) -> None:
    watch = watching(tmp_path, 2)
    for round_ in (1, 2, 3):
        sent = message(11, round_=round_)
        watch.sent([sent.metadata.message_id], [sent])
        watch.arrived([trained(sent)])
    about = json.loads((tmp_path / NAME).read_text())
    assert (about["rounds"], about["replies"]) == (3, 3)
    assert [one["round"] for one in about["kept"]] == [2]


def test_messages_that_could_not_be_sent_belong_to_nobody(tmp_path: Path) -> None:
    watch = watching(tmp_path, 1)
    sent = [message(11), message(12)]
    watch.sent(["", sent[1].metadata.message_id], sent)  # as Flower's Grids tell of it
    watch.arrived([trained(sent[1])])
    assert json.loads((tmp_path / NAME).read_text())["clients"] == 1


def test_statistics_of_batch_norm_are_told_apart_again() -> None:
    """They are recorded among what moved: only the network says that they are no parameters."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    pixels = stated((0.0,), (1.0,), 1)
    names = {str(place): name for place, name in enumerate(network.state_dict())}
    view = View(FromPixels(network, pixels, (1, 2, 2)), names, frozenset(), (1, 2, 2), pixels, 2)
    model = FunctionalModel(view.network, view.shape)
    sent = {key: network.state_dict()[name].numpy().copy() for key, name in names.items()}
    back = {key: value + (key != "6") for key, value in sent.items()} | {"6": sent["6"] + 1}
    seen = bare(Sight(1, 0, sent, back), KnownConfig())
    found = translated(seen, KnownConfig(local_steps=1), view, model)
    assert list(found.update) == [f"network.{one}" for one in ("1.weight", "1.bias", "2.weight", "2.bias")]
    assert all(bool(((value - 1.0).abs() < 1e-6).all()) for value in found.update.values())
    assert found.buffers_before["network.2.running_var"].tolist() == [1.0, 1.0]
    assert found.buffers_after["network.2.running_var"].tolist() == [2.0, 2.0]
    assert found.config.local_steps == 1
