"""Whole runs on a device: repeatable to the bit, and the same on workers that share one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rounding import difference, norm
from safetensors.torch import load_file

import fedlab
from fedlab.tasks import State

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "name": "device",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16}},
    "clients": {"count": 6, "batch_size": 8, "local_steps": 2},
    "strategy": {"rounds": 3, "cohort": 4},
}


def weights(out: Path, **runtime: Any) -> State:
    """What a run ends with."""
    fedlab.run(SCENARIO | {"runtime": {"chunk": 2, **runtime}}, out=out)
    (model,) = out.glob("models/*/model.safetensors")
    return load_file(model)


@pytest.mark.parametrize("other", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_run_is_repeated_to_the_bit(tmp_path: Path, device: str, other: str) -> None:
    """Of 6 steps of a small MLP in float32 the CPU's weights lie within 1e-4 of any device's."""
    if device == "cpu" and other == "ray":
        pytest.skip("workers on CPUs are tested in tests/runtime")
    gpus = 0.0 if device == "cpu" else 1.0
    first = weights(tmp_path / "first", executor="inline", num_gpus=gpus)
    share = gpus if other == "inline" else 0.25
    second = weights(tmp_path / "second", executor=other, num_gpus=share)
    assert norm(difference(first, second)) == 0.0
    if device != "cpu":
        plain = weights(tmp_path / "cpu", executor="inline")
        assert norm(difference(first, plain)) <= 1e-4 * norm(plain)
