"""`fedlab attack`: what it passes on, what it prints, and the exit codes of its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlab import errors, experiment
from fedlab.cli.tables import summary


@pytest.fixture
def fake(fake_run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def attack(path: Path, *, progress: Any, **asked: Any) -> Any:
        fake_run.calls.append({"path": path, **asked})
        return fake_run._work(progress)

    monkeypatch.setattr(experiment, "attack", attack, raising=False)
    return fake_run


def test_it_passes_on_what_is_asked_in_the_order_given(fedlab: Any, fake: Any, begun: Path) -> None:
    answer = fedlab(
        *("attack", begun, "--attack", "cascade", "--attack", "linear-layer:a=1,b=[2, 3]"),
        *("--threat", "oracle", "--threat", "labels=true,momentum=false", "--set", "runtime.executor=inline"),
    )
    assert answer.code == 0
    assert fake.calls == [
        {
            "path": begun,
            "attacks": ["cascade", "linear-layer:a=1,b=[2, 3]"],
            "threats": ["oracle", "labels=true,momentum=false"],
            "overrides": ["runtime.executor=inline"],
        }
    ]
    assert answer.out.splitlines()[-2:] == [str(fake.directory), str(fake.directory / "report.html")]
    assert "linear-layer" in answer.out and "noise from a library" in answer.err


def test_without_options_the_run_decides_and_json_is_one_object(fedlab: Any, fake: Any, begun: Path) -> None:
    answer = fedlab("attack", begun, "--json", "--quiet")
    assert answer.json["directory"] == str(fake.directory) and "train none" not in answer.err
    assert fake.calls == [{"path": begun, "attacks": (), "threats": (), "overrides": ()}]


def test_help_says_what_it_is_for(fedlab: Any) -> None:
    answer = fedlab("attack", "--help")
    assert answer.code == 0
    for word in ("RUN", "--attack", "--threat", "oracle", "each", "without training", "--json", "--quiet"):
        assert word in answer.out


@pytest.mark.parametrize(
    "error",
    [
        errors.UsageError("not finished"),
        errors.UnknownName("threat", "orcle", ["oracle"]),
        errors.DataError("no observations"),
        errors.Interrupted("again"),
        errors.BackendError("Ray"),
    ],
)
def test_its_errors_have_their_exit_codes(
    fedlab: Any, fake: Any, begun: Path, error: errors.FedlabError
) -> None:
    fake.error = error
    answer = fedlab("attack", begun, "-q")
    assert (answer.code, answer.out) == (error.exit_code, "")
    assert answer.err.splitlines()[-1] == f"error: {error}"


def test_a_run_that_is_not_finished_is_a_mistake_of_usage(fedlab: Any, begun: Path) -> None:
    answer = fedlab("attack", begun, "-q")
    assert answer.code == 2 and f"fedlab resume {begun}" in answer.err


def test_what_is_no_run_is_refused(fedlab: Any, tmp_path: Path) -> None:
    answer = fedlab("attack", tmp_path / "rnus", "-q")
    assert answer.code == 2 and "there is no such directory" in answer.err
    answer = fedlab("attack", tmp_path, "-q")
    assert answer.code == 3 and "no manifest.json" in answer.err


def test_threats_have_a_column_where_there_are_several() -> None:
    row = {"attack": "linear-layer", "defense": "none", "client_mode": "train", "control": {}}
    trained = {"defense": "none", "client_mode": "train", "accuracy": 0.5}
    data: dict[str, Any] = {
        "run": {"cells": []},
        "attacks": [row],
        "utility": [trained],
        "guarantees": [],
    }
    assert "threat" not in [column.header for column in summary(data).columns]
    data["attacks"] = [row, row | {"threat_label": "oracle"}]
    (column,) = [one for one in summary(data).columns if one.header == "threat"]
    assert list(column.cells) == ["", "oracle"]
