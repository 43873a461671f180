"""`fedlab init`: what it writes is valid for every bundled name; it asks, tells and refuses as it should."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from fedlab import plugins
from fedlab.cli import init as init_module
from fedlab.cli.init import completed
from fedlab.cli.starter import OWN, TRAINING, Choices, text
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


def answered(*answers: str) -> tuple[Callable[[str, str], str], list[str]]:
    """Somebody who answers so, and the list of what was asked; "" takes the default."""
    rest, asked = iter(answers), list[str]()

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return next(rest) or default

    return ask, asked


def test_four_questions_are_asked_and_wrong_answers_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    ask, asked = answered("photos lenet", "fedavg", "none topk", "none, top-k", "inverting-gradients oracle")
    found = completed({"rounds": 3}, ask)
    assert (found.dataset, found.model, found.training) == ("photos", "lenet", "fedavg")
    assert found.defenses == ("none", "top-k") and found.attacks == ("inverting-gradients",)
    assert (found.threat, found.rounds) == ("oracle", 3)
    assert asked == ["1/4", "2/4", "3/4", "3/4", "4/4"]
    told = capsys.readouterr().err
    assert 'there is no "topk". Did you mean "top-k"?' in told
    assert told.count("gradient-pruning") == 1  # the names are shown once, not after each slip


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        ("digits photos", "got digits and photos; expected one of them"),
        ("mlp lenet", "got mlp and lenet; expected one of them"),
        (
            "digitz mpl",
            'there is no "digitz". Did you mean "digits"?\nthere is no "mpl". Did you mean "mlp"?',
        ),
        (", ,", "expected a name"),
    ],
)
def test_an_answer_that_cannot_be_is_told(slip: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    ask, asked = answered(slip, "", "", "", "")
    assert completed({}, ask) == Choices() and asked == ["1/4", "1/4", "2/4", "3/4", "4/4"]
    assert told in capsys.readouterr().err


def test_no_attack_is_an_answer() -> None:
    ask, _ = answered("", "", "", "none")
    assert completed({}, ask).attacks == ()
    ask, _ = answered("", "", "", "oracle")
    assert completed({}, ask) == replace(Choices(), threat="oracle")


def test_attacks_that_cannot_be_scored_are_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    ask, _ = answered("gaussians softmax", "", "", "")
    assert completed({}, ask).attacks == ()
    assert "no attack: they are scored on pixels" in capsys.readouterr().err


def test_answers_that_do_not_go_together_come_back_as_a_command(
    fedlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, _ = answered("digits softmax", "", "frozen-first-layer", "")
    monkeypatch.setattr(init_module, "ask", ask)
    monkeypatch.setattr(init_module, "asks", lambda: True)
    file = tmp_path / "a.toml"
    answer = fedlab("init", file)
    assert answer.code == 2 and not file.exists() and "deeper network" in answer.err
    (command,) = [line.split() for line in answer.err.splitlines() if line.startswith("  fedlab init")]
    better = ["mlp" if word == "softmax" else word for word in command[1:]]
    assert fedlab(*better).code == 0 and load(file).defenses[0].name == "frozen-first-layer"


def test_a_terminal_that_is_closed_writes_nothing(tmp_path: Path) -> None:
    """Ctrl-D, on a terminal of its own, as a person has it."""
    ours, theirs = os.openpty()
    code = "from fedlab.cli import main; main(['init'])"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the other end is gone
        while read := os.read(ours, 4096):
            before, said = said, said + read
            if b"1/4 [digits mlp]" in said and b"1/4 [digits mlp]" not in before:
                os.write(ours, b"\x04")
    os.close(ours)
    assert (child.wait(), list(tmp_path.iterdir())) == (5, [])
    assert said.decode().splitlines()[-2:] == ["nothing was written", "stopped"]


def test_ctrl_c_writes_nothing(fedlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> str:
        raise typer.Abort  # as click has it

    monkeypatch.setattr(typer, "prompt", pressed)
    monkeypatch.setattr(init_module, "asks", lambda: True)
    answer = fedlab("init", tmp_path / "a.toml")
    assert answer.code == 5 and answer.err.endswith("\nnothing was written\nstopped\n")
    assert not list(tmp_path.iterdir())


def test_what_flags_say_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(question: str, default: str) -> str:
        asked.append(question[:3])
        return default

    completed({"dataset": "digits", "attacks": ("cascade",)}, ask)
    assert asked == ["2/4", "3/4"]
    assert init_module.ask is not ask
