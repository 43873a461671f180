"""Call the command line in this process, with a run that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedlab import experiment
from fedlab.cli import main


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Fedlab = Callable[..., Answer]


@pytest.fixture
def fedlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fedlab:
    """fedlab("run", "x.toml") -> exit code, stdout, stderr."""
    for name in ("FEDLAB_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Answer(exit.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """A scenario file without a mistake."""
    file = tmp_path / "small.toml"
    file.write_text('schema = 1\n[task]\ndataset = "digits"\nmodel = { name = "mlp", width = 8 }\n')
    return file


DATA: dict[str, Any] = {
    "run": {"cells": []},
    "attacks": [
        {
            "attack": "linear-layer",
            "defense": "none",
            "client_mode": "train",
            "psnr_median": 151.26,
            "fraction_recovered": 1.0,
            "control": {"psnr_median": 6.04},
        },
        {
            "attack": "dropout-inversion",
            "defense": "none",
            "client_mode": "train",
            "psnr_median": None,
            "fraction_recovered": None,
            "reading": "attack failed",
            "control": {},
        },
    ],
    "utility": [
        {"defense": "none", "client_mode": "train", "accuracy": 0.9312},
        {"defense": "dp-sgd", "client_mode": "train", "accuracy": 0.5},
    ],
    "guarantees": [
        {"defense": "none", "client_mode": "train", "epsilon": None},
        {"defense": "dp-sgd", "client_mode": "train", "epsilon": 3.14159},
    ],
}


@dataclass
class FakeReport:
    directory: Path
    html: Path
    data: dict[str, Any]


class FakeRun:
    """Stands for fedlab.experiment.run: remembers its arguments, prints noise, and answers or raises."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[dict[str, Any]] = []
        self.error: BaseException | None = None

    def __call__(self, scenario: Any, *, out: Path | None, progress: Any, command: str) -> FakeReport:
        self.calls.append({"scenario": scenario, "out": out, "command": command})
        return self._work(progress)

    def resume(self, path: Path, *, overrides: Any, force: bool, progress: Any) -> FakeReport:
        self.calls.append({"path": path, "overrides": overrides, "force": force})
        return self._work(progress)

    def _work(self, progress: Any) -> FakeReport:
        print("noise from a library")
        progress.start("train none", 40)
        progress.advance("train none", 20, "accuracy 0.5")
        if self.error is not None:
            raise self.error
        progress.finish("train none", "accuracy 0.9")
        return FakeReport(self.directory, self.directory / "report.html", DATA)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of a run that has not ended."""
    path = tmp_path / "begun"
    path.mkdir()
    (path / "manifest.json").write_text('{"schema": 1, "status": "interrupted"}')
    return path


@pytest.fixture
def fake_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    fake = FakeRun(tmp_path / "runs" / "small-1")
    monkeypatch.setattr(experiment, "run", fake, raising=False)
    monkeypatch.setattr(experiment, "resume", fake.resume, raising=False)
    return fake
