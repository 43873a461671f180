"""Checkpoints: complete, sound, two of them, and when they are due."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlab.errors import BackendError
from fedlab.experiment.checkpoints import Checkpoints, clear
from fedlab.snapshot import Snapshot


def snapshot(round: int) -> Snapshot:
    return Snapshot({"a/b": torch.full((2, 3), float(round))}, {"round": round, "loss": 0.1 + 0.2})


def filled(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, every=1, seconds=60.0)
    for number in numbers:
        checkpoints.save(number, snapshot(number))
    return checkpoints


def test_what_is_saved_is_what_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 2, 5, 9, 11)
    assert checkpoints.rounds() == [9, 11] and len(list(tmp_path.iterdir())) == 6
    found = Checkpoints(tmp_path, 1, 60.0).load(pytest.fail)
    assert found is not None
    assert torch.equal(found.tensors["a/b"], torch.full((2, 3), 11.0)) and list(found.tensors) == ["a/b"]
    assert found.values == {"round": 11, "loss": 0.1 + 0.2}
    clear(tmp_path)
    assert not tmp_path.exists()
    clear(tmp_path)


PARTS = ["round-000005.safetensors", "round-000005.values.json", "round-000005.json"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, part: str, damage: str
) -> None:
    filled(tmp_path, 2, 5)
    path = tmp_path / part
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:middle], "flipped": flipped, "empty": b""}[damage])
    told: list[str] = []
    found = Checkpoints(tmp_path, 1, 60.0).load(told.append)
    assert found is not None and found.values["round"] == 2
    # Without its seal it is no checkpoint at all, as after a kill in the middle of writing it.
    sealed = not (part == PARTS[2] and damage == "missing")
    assert [line.startswith("the checkpoint of round 5 is damaged") for line in told] == [True] * sealed


def test_when_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    filled(tmp_path, 2, 5)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    told: list[str] = []
    assert Checkpoints(tmp_path, 1, 60.0).load(told.append) is None and len(told) == 2
    assert Checkpoints(tmp_path / "no", 1, 60.0).load(told.append) is None and len(told) == 2


def test_one_is_due_after_so_many_rounds_or_so_much_time_whichever_is_first(tmp_path: Path) -> None:
    now = 100.0
    checkpoints = Checkpoints(tmp_path, every=4, seconds=10.0, clock=lambda: now)
    assert [checkpoints.due(number) for number in (3, 4, 5)] == [False, True, True]
    checkpoints.save(4, snapshot(4))
    assert [checkpoints.due(number) for number in (7, 8)] == [False, True]
    now = 109.9
    assert not checkpoints.due(5)
    now = 110.0
    assert checkpoints.due(5)
    resumed = Checkpoints(tmp_path, every=4, seconds=10.0, clock=lambda: now)
    resumed.load(pytest.fail)
    assert [resumed.due(number) for number in (7, 8)] == [False, True]
    assert not Checkpoints(tmp_path, every=0, seconds=1e-9, clock=lambda: now).due(10**6)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("call", range(1, 4))
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    checkpoints = filled(tmp_path, 2)
    real, calls = getattr(os, name), 0

    def full(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(BackendError, match="No space left"):
            checkpoints.save(5, snapshot(5))
    found = Checkpoints(tmp_path, 1, 60.0).load(pytest.fail)
    assert found is not None and found.values["round"] == 2
