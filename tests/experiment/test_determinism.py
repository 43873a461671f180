"""Everything that draws or rounds, at once; on Ray, too: tests/runtime/test_same_bits_on_ray.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedlab

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "seed": 5,
    # A width whose tensors do not begin where matrix kernels like them, and batches of one to three.
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 22, "depth": 3, "dropout": 0.3}},
    "clients": {
        "count": 12,
        "partition": {"name": "dirichlet", "alpha": 0.4},
        "batch_size": 3,
        "local_steps": 4,
        "momentum": 0.5,
        "weight_decay": 0.01,
    },
    "strategy": {
        "rounds": 6,
        "cohort": 6,
        "over_selection": 1.5,
        "deadline": 4.0,
        "evaluate_every": 2,
        "server_optimizer": {"momentum": 0.5},
    },
    "devices": {"time": {"name": "log-normal", "sigma": 0.5}, "per_example": 0.01, "dropout": 0.2},
    "audit": {"rounds": [1, 2], "victims": 2},
    "defenses": [
        {"name": "none"},
        {"name": "dp-sgd", "noise_multiplier": 1.0, "max_grad_norm": 0.5},
        {"name": "gradient-pruning", "ratio": 0.5},
    ],
}


def left_by(out: Path, **runtime: object) -> dict[str, object]:
    fedlab.run(SCENARIO | {"runtime": runtime}, out=out)
    manifest = json.loads((out / "manifest.json").read_text())
    return {
        "weights": manifest["weights_sha256"],
        "metrics": (out / "metrics.json").read_bytes(),
        "privacy": [path.read_bytes() for path in sorted((out / "privacy").iterdir())],
        "truth": [path.read_bytes() for path in sorted((out / "truth").iterdir())],
    }


@pytest.mark.parametrize("guarded", [True, False])
def test_what_reached_the_server_is_charged_also_when_enough_others_had_come(
    tmp_path: Path, guarded: bool
) -> None:
    """Devices of equal speed: of six asked all six answer at once, and four are used."""
    scenario = SCENARIO | {
        "devices": {},
        "guard": {"enabled": guarded},
        "strategy": {"rounds": 3, "cohort": 4, "over_selection": 1.5},
        "defenses": [{"name": "dp-sgd", "noise_multiplier": 1.0}],
        "privacy": {"check": False},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1], "victims": 2},
    }
    fedlab.run(scenario, out=tmp_path / "run")
    lines = (tmp_path / "run" / "privacy" / "dp-sgd-train-s5.journal.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 3 * 6
    index = json.loads((tmp_path / "run" / "observations" / "dp-sgd-train-s5" / "index.json").read_text())
    assert len(index["observations"]) == 6
