"""Studies of data that are not bundled are left out, and said to be."""

from __future__ import annotations

import pytest

from reproductions import __main__ as command


def test_a_study_without_its_data_is_left_out_and_no_bar_is_said_to_be_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "here", lambda data: data != "fashion-mnist")
    assert command.main(["fedbuff_fashion"]) == 3
    told = capsys.readouterr().out
    assert "fetch it with `fedlab data fetch fashion-mnist`" in told
    assert "left out for want of data: fedbuff_fashion" in told and "missed" not in told


def test_which_data_a_study_needs() -> None:
    assert command.data_set("fedbuff_fashion") == "fashion-mnist"
    assert command.data_set("fedast_makespan") is None  # several tasks, all of them drawn or bundled
    assert command.here("gaussians") and command.here("digits")
