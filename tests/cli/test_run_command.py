"""`fedlab run` and `fedlab report`: what goes where, and which exit code."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from fedlab import errors


def test_the_run_directory_and_the_report_are_the_last_two_lines(
    fedlab: Any, scenario: Path, fake_run: Any
) -> None:
    answer = fedlab("run", scenario, "--set", "strategy.rounds=3", "--out", "there")
    assert answer.code == 0
    assert answer.out.splitlines()[-2:] == [str(fake_run.directory), str(fake_run.directory / "report.html")]
    (call,) = fake_run.calls
    assert call["scenario"].strategy.rounds == 3 and call["out"] == Path("there")
    # What does not change the result is no part of the command that reproduces it.
    assert call["command"] == f"fedlab run {scenario} --set strategy.rounds=3"


def test_the_table_holds_scores_controls_utility_and_guarantees(
    fedlab: Any, scenario: Path, fake_run: Any
) -> None:
    rows = [line.split() for line in fedlab("run", scenario).out.splitlines()]
    assert ["none", "train", "0.931", "none", "linear-layer", "151.3", "6.0", "100%"] in rows
    assert ["dropout-inversion", "–", "–", "attack", "failed"] in rows
    assert ["dp-sgd", "train", "0.500", "3.15", "no", "attacks"] in rows


def test_progress_and_noise_go_to_stderr_and_quiet_silences_progress(
    fedlab: Any, scenario: Path, fake_run: Any
) -> None:
    answer = fedlab("run", scenario)
    assert "noise from a library" not in answer.out and "noise from a library" in answer.err
    assert "train none: 20 of 40, accuracy 0.5" in answer.err.splitlines()
    assert "train none" not in fedlab("run", scenario, "-q").err


def test_json_is_one_object_on_stdout(fedlab: Any, scenario: Path, fake_run: Any) -> None:
    answer = fedlab("run", scenario, "--json")
    assert answer.json["directory"] == str(fake_run.directory)
    assert answer.json["html"] == str(fake_run.directory / "report.html")
    assert answer.json["report"]["utility"][0]["accuracy"] == 0.9312


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FedlabError("it failed"), 1),
        (errors.PluginError("it failed"), 2),
        (errors.DataError("it failed"), 3),
        (errors.GateFailed("it failed"), 4),
        (errors.Interrupted("it failed"), 5),
        (errors.BackendError("it failed"), 6),
        (errors.BudgetExhausted("it failed"), 7),
    ],
)
def test_an_error_is_one_line_on_stderr_and_its_own_exit_code(
    fedlab: Any, scenario: Path, fake_run: Any, error: Exception, code: int
) -> None:
    fake_run.error = error
    answer = fedlab("run", scenario, "-q")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.splitlines()[-1] == "error: it failed"
    assert "Traceback" not in answer.err


def test_ctrl_c_is_exit_code_5(fedlab: Any, scenario: Path, fake_run: Any) -> None:
    fake_run.error = KeyboardInterrupt()
    answer = fedlab("run", scenario)
    assert answer.code == 5 and "Traceback" not in answer.err


def test_an_unexpected_error_names_itself_and_shows_its_traceback_on_demand(
    fedlab: Any, scenario: Path, fake_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run.error = ZeroDivisionError("by nothing")
    answer = fedlab("run", scenario)
    assert answer.code == 1 and "unexpected ZeroDivisionError: by nothing" in answer.err
    assert "Traceback" not in answer.err and "--debug" in answer.err
    assert "Traceback" in fedlab("run", scenario, "--debug").err
    assert "Traceback" in fedlab("--debug", "run", scenario).err
    monkeypatch.setenv("FEDLAB_DEBUG", "1")
    assert "Traceback" in fedlab("run", scenario).err


def test_a_mistake_in_the_scenario_stops_before_the_run(fedlab: Any, scenario: Path, fake_run: Any) -> None:
    answer = fedlab("run", scenario, "--set", "clients.cuont=3")
    assert answer.code == 2 and 'Did you mean "count"' in answer.err and not fake_run.calls


def test_report_of_what_is_no_run_directory(fedlab: Any, tmp_path: Path) -> None:
    answer = fedlab("report", tmp_path)
    assert answer.code == 3 and answer.out == "" and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("finished", ""),
        ("interrupted", "goes on"),
        ("failed", "would fail again, unless the cause lay outside"),
    ],
)
def test_report_of_a_run_that_did_not_end_says_so_on_stderr(
    fedlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, told: str
) -> None:
    from fedlab import report

    data = {"run": {"status": status, "cells": []}, "attacks": [], "utility": [], "guarantees": []}
    audit = types.SimpleNamespace(directory=tmp_path, html=tmp_path / "report.html", data=data)
    monkeypatch.setattr(report, "build", lambda directory, fail_on: audit)
    answer = fedlab("report", tmp_path)
    assert answer.code == 0 and (told in answer.err if told else answer.err == "")
    assert answer.out.splitlines()[-1] == str(audit.html)


def test_ctrl_c_behind_another_error_is_still_ctrl_c(fedlab: Any, scenario: Path, fake_run: Any) -> None:
    error = RecursionError("half an import")
    error.__context__ = ValueError("in between")
    error.__context__.__context__ = KeyboardInterrupt()
    fake_run.error = error
    answer = fedlab("run", scenario, "-q")
    assert answer.code == 5 and answer.err.splitlines()[-1] == "stopped"


def test_an_interrupted_run_keeps_its_own_message(fedlab: Any, scenario: Path, fake_run: Any) -> None:
    fake_run.error = errors.Interrupted("stopped in round 3")
    fake_run.error.__cause__ = KeyboardInterrupt()
    answer = fedlab("run", scenario, "-q")
    assert answer.code == 5 and answer.err.splitlines()[-1] == "error: stopped in round 3"


@pytest.mark.parametrize("code", [0, None, 3])
def test_a_plugin_that_exits_is_a_failure_whatever_its_code(
    fedlab: Any, scenario: Path, fake_run: Any, code: int | None
) -> None:
    fake_run.error = SystemExit(code)
    answer = fedlab("run", scenario, "-q")
    assert answer.code == 1 and f"sys.exit({code})" in answer.err
