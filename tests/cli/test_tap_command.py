"""`fedlab tap` and `fedlab attack RUN --app`: options that cannot work say so before anything happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlab.apps.tap import NAME
from fedlab.cli.app import execute
from tests.apps.tap_by_hand import EXAMPLES

APP = str(EXAMPLES / "pytorch-cnn")
NOBODY = ["--superlink", "127.0.0.1:1", "--insecure"]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = execute(arguments)
    return code, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (NOBODY, 6, "nobody listens at 127.0.0.1:1"),
        (["--superlink", "127.0.0.1"], 2, "expected HOST:PORT"),
        ([*NOBODY, "--observe", "one"], 2, "expected rounds, as in 1,2"),
        ([*NOBODY, "--observe", "0"], 2, "counted from 1"),
        ([*NOBODY, "--attack", "cascade"], 2, "--attack cascade without --app"),
        ([*NOBODY, "--include-samples"], 2, "--include-samples without --app"),
        ([*NOBODY, "--out", "x", "--runs", "2"], 2, "expected one run for one directory"),
        ([*NOBODY, "--app", "no-such-folder"], 2, "no folder no-such-folder"),
        ([*NOBODY, "--patience", "0"], 2, "expected seconds, at least 1"),
        ([*NOBODY, "--root-certificates", "none.pem"], 2, "expected one of them"),
    ],
)
def test_what_cannot_work(
    options: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, text = said(["tap", *options], capsys)
    assert got == code and words in text
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_directory_that_holds_something_is_refused_before_a_run_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    got, text = said(["tap", *NOBODY, "--out", str(tmp_path)], capsys)
    assert got == 2 and "is not empty" in text and "nobody listens" not in text
    got, text = said(["tap", *NOBODY, "--out", str(tmp_path / "mine" / "run")], capsys)
    assert got == 2 and "is no directory to write in" in text and "nobody listens" not in text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "status": "finished", "cells": []}))
    return tmp_path


def test_attacks_on_a_recording_need_its_app(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / NAME).write_text(json.dumps({"observe": [3], "kept": []}))
    got, text = said(["attack", str(run)], capsys)
    assert got == 2 and f"fedlab attack {run} --app APP" in text
    for option in ("--threat", "--set"):
        got, text = said(["attack", str(run), "--app", APP, option, "oracle"], capsys)
        assert got == 2 and f"{option} oracle" in text and "recorded on a deployment" in text
    got, text = said(["attack", str(run), "--app", str(run)], capsys)
    assert got == 2 and "no pyproject.toml" in text


def test_other_runs_have_no_app(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--app", APP], ["--include-samples"]):
        got, text = said(["attack", str(run), *options], capsys)
        assert got == 2 and "is no recording of a deployment" in text
