"""Observations on disk: added as they come, found again as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlab.audit import KnownConfig, Observation, Part, archive
from fedlab.errors import DataError


def seen(round: int, client: int, value: float = 1.0, **more: Any) -> Observation:
    return Observation(
        round=round,
        client=client,
        before={"w": torch.zeros(2)},
        update={"w": torch.full((2,), value)},
        buffers_before={"mean": torch.zeros(1)},
        buffers_after={"mean": torch.full((1,), value)},
        config=KnownConfig(batch_size=4),
        examples=7,
        **more,
    )


def facts(one: Observation) -> tuple[Any, ...]:
    return one.round, one.client, one.repeat, float(one.update["w"][0]), float(one.buffers_after["mean"])


def test_observations_of_one_round_may_come_at_different_times(tmp_path: Path) -> None:
    """An asynchronous server hears of the same model's clients over many rounds."""
    archive.add(tmp_path, [seen(1, 3)])
    archive.add(tmp_path, [seen(1, 0, 2.0), seen(2, 3, 4.0)])
    assert [facts(one) for one in archive.load(tmp_path)] == [
        (1, 0, 0, 2.0, 2.0),
        (1, 3, 0, 1.0, 1.0),
        (2, 3, 0, 4.0, 4.0),
    ]


def test_a_client_that_got_the_same_model_twice_has_two_observations(tmp_path: Path) -> None:
    archive.add(tmp_path, [seen(1, 3), seen(1, 3, 5.0, repeat=1)])
    assert [facts(one) for one in archive.load(tmp_path)] == [(1, 3, 0, 1.0, 1.0), (1, 3, 1, 5.0, 5.0)]


def test_what_a_resumed_run_sees_again_replaces_itself(tmp_path: Path) -> None:
    for _ in range(2):
        archive.add(tmp_path, [seen(1, 3)])
    assert len(archive.load(tmp_path)) == 1
    assert len(json.loads((tmp_path / "index.json").read_text())["observations"]) == 1


def test_a_sum_remembers_whose_it_is(tmp_path: Path) -> None:
    parts = (Part(1, 4), Part(1, 5, 1), Part(6, 3, 0, 2))
    archive.add(tmp_path, [seen(5, 1, parts=parts)])
    (one,) = archive.load(tmp_path)
    assert one.parts == parts and one.config == KnownConfig(batch_size=4) and one.examples == 7


def test_a_damaged_file_is_not_added_to(tmp_path: Path) -> None:
    archive.add(tmp_path, [seen(1, 3)])
    (tmp_path / "round-0001.safetensors").write_bytes(b"half")
    for again in (lambda: archive.add(tmp_path, [seen(1, 4)]), lambda: archive.load(tmp_path)):
        with pytest.raises(DataError, match="cannot be read"):
            again()
