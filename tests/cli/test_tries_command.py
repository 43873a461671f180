"""What `fedlab audit-app --try` asks for, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlab.cli.audit_app import _check_tried, _command
from fedlab.errors import AppFailed


def told(folder: Path, *statuses: str) -> Path:
    tried = [{"label": f"try-{i}", "status": one, "why": f"reason {i}"} for i, one in enumerate(statuses)]
    (folder / "app.json").write_text(json.dumps({"tried": tried} if statuses else {}))
    return folder


def test_a_try_that_fails_beside_one_that_does_not_is_no_failure(tmp_path: Path) -> None:
    _check_tried(told(tmp_path, "failed", "tried"))
    _check_tried(told(tmp_path))


def test_all_that_fail_are_told_with_their_reasons(tmp_path: Path) -> None:
    with pytest.raises(AppFailed, match="try-0: reason 0\n  try-1: reason 1") as caught:
        _check_tried(told(tmp_path, "failed", "failed"))
    assert caught.value.exit_code == 1


def test_the_command_that_gives_the_same_result_names_the_tries() -> None:
    command = _command(Path("app"), "", 4, None, "1", [], ["dp-sgd,no-bias", "clipping:clip=0.1"], 0)
    assert command == ("fedlab audit-app app --num-supernodes 4 --try dp-sgd,no-bias --try clipping:clip=0.1")
