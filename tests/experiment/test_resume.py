"""A run that is killed at any moment and resumed ends with the bits of one that was left alone."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedlab
from tests.experiment import crashes


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fedlab.run(crashes.quick_scenario(), out=out)
    return out


def test_a_kill_at_any_moment_loses_no_bit(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    scenario = crashes.quick_scenario()
    copies = crashes.moments(lambda: fedlab.run(scenario, out=out), out, tmp_path)
    begun = [copy for copy in copies if (copy / "manifest.json").exists()]
    assert len(begun) > 50 and any((copy / "checkpoints").exists() for copy in begun)
    for copy in begun:
        fedlab.resume(copy)
        assert crashes.result(copy) == crashes.result(whole), copy
        for line in (copy / "events.jsonl").read_text().splitlines():
            json.loads(line)
        shutil.rmtree(copy)
