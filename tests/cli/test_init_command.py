"""`fedlab init`: what it writes is valid for every bundled name; it asks, tells and refuses as it should."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedlab import plugins
from fedlab.cli import init as init_module
from fedlab.cli.init import completed
from fedlab.cli.starter import OWN, TRAINING, text
from fedlab.errors import UnknownName, UsageError
from fedlab.scenario import load


def bundled(kind: str) -> list[str]:
    return [name for name in plugins.names(kind) if name not in OWN]


def valid(**given: Any) -> dict[str, Any]:
    written = tomllib.loads(text(completed(given, None)))
    load(written)
    return written


@pytest.mark.parametrize("dataset", bundled("datasets"))
def test_every_data_set_is_valid_with_the_defaults(dataset: str) -> None:
    assert valid(dataset=dataset)["task"]["dataset"] == dataset


@pytest.mark.parametrize("model", bundled("models"))
def test_every_model_is_valid_with_the_defaults(model: str) -> None:
    assert model in str(valid(model=model, training="fedavg")["task"]["model"])


def test_every_attack_together_is_valid_and_each_malicious_one_gets_its_server() -> None:
    written = valid(attacks=tuple(bundled("attacks")), defenses=("none",))
    assert written["threat"] == {"level": "proxy", "server": "malicious"}
    assert valid(attacks=("cascade",))["threat"] == {"level": "protocol"}


@pytest.mark.parametrize("training", TRAINING)
def test_every_defense_together_is_valid(training: str) -> None:
    written = valid(defenses=tuple(bundled("defenses")), training=training)
    assert [one["name"] for one in written["defenses"]] == bundled("defenses")


def test_batch_norm_gives_way_to_a_defense_that_refuses_it() -> None:
    assert valid(model="resnet", defenses=("dp-sgd",))["task"]["model"]["norm"] == "group"
    assert valid(model="resnet", defenses=("none",))["task"]["model"] == "resnet"


def test_records_that_are_no_pixels_get_no_attack() -> None:
    assert "attacks" not in valid(dataset="gaussians", model="softmax")
    with pytest.raises(UsageError, match="no pixels"):
        completed({"dataset": "gaussians", "attacks": ("cascade",)}, None)


def test_what_cannot_go_together_is_told_and_not_written(fedlab: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    answer = fedlab("init", file, "--model", "softmax", "--defense", "frozen-first-layer", "--yes")
    assert answer.code == 2 and "deeper network" in answer.err and not file.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dataset": "digitz"}, 'Did you mean "digits"'),
        ({"attacks": ("cascad",)}, 'Did you mean "cascade"'),
        ({"training": "fedsdg"}, 'Did you mean "fedsgd"'),
        ({"threat": "orakle"}, 'Did you mean "oracle"'),
    ],
)
def test_unknown_names_get_a_hint(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UnknownName, match=told):
        completed(given, None)


def test_without_a_terminal_the_defaults_are_said_aloud_and_what_to_run_next(
    fedlab: Any, tmp_path: Path
) -> None:
    file = tmp_path / "my first.toml"
    answer = fedlab("init", file)
    assert answer.code == 0 and "taking the defaults" in answer.err and "cascade" in answer.err
    commands = [line.split("#")[0].strip() for line in answer.out.splitlines()[1:]]
    assert commands == [f"fedlab run '{file}' --dry-run", f"fedlab run '{file}'"]
    assert load(file).defenses[1].name == "dp-sgd"
    assert "taking the defaults" not in fedlab("init", tmp_path / "b.toml", "--yes").err


def test_it_never_writes_over_a_file_unless_forced(fedlab: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("mine")
    answer = fedlab("init", file, "--yes")
    assert answer.code == 2 and "--force" in answer.err and file.read_text() == "mine"
    assert fedlab("init", file, "--yes", "--force").code == 0 and file.read_text() != "mine"
    assert fedlab("init", tmp_path, "--yes").code == 2
    assert fedlab("init", tmp_path / "no" / "a.toml", "--yes").code == 6


def test_four_questions_are_asked_and_wrong_answers_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers: Iterator[str] = iter(
        ["photos lenet", "fedavg", "none topk", "none, top-k", "inverting-gradients oracle"]
    )
    asked: list[str] = []

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return next(answers)

    found = completed({"rounds": 3}, ask)
    assert (found.dataset, found.model, found.training) == ("photos", "lenet", "fedavg")
    assert found.defenses == ("none", "top-k") and found.attacks == ("inverting-gradients",)
    assert (found.threat, found.rounds) == ("oracle", 3)
    assert [one[:3] for one in asked] == ["1/4", "2/4", "3/4", "3/4", "4/4"]
    assert 'Did you mean "top-k"' in capsys.readouterr().err


def test_what_flags_say_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(question: str, default: str) -> str:
        asked.append(question[:3])
        return default

    completed({"dataset": "digits", "attacks": ("cascade",)}, ask)
    assert asked == ["2/4", "3/4"]
    assert init_module.ask is not ask
