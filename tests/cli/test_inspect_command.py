"""`fedlab inspect-model`: tables, JSON, and its mistakes."""

from __future__ import annotations

import json
from typing import Any


def test_it_prints_layers_attacks_and_knobs(fedlab: Any) -> None:
    done = fedlab("inspect-model", "mlp", "--set", "task.model.width=24", "--batches", "1")
    assert done.code == 0, done.err
    for text in ("linear1", "24×64", "linear-layer", "first_bias", "recovers 100% of the records at batch 1"):
        assert text in done.out
    assert "no answer from patch-embedding" in done.out and "Attacks that optimise are not tried" in done.out


def test_json_is_one_document(fedlab: Any) -> None:
    done = fedlab("inspect-model", "softmax", "--batches", "1,2", "--no-knobs", "--json")
    found = json.loads(done.out)
    assert found["model"] == "softmax" and found["layers"][0]["gradient"].keys() == {"1", "2"}


def test_mistakes_are_told(fedlab: Any) -> None:
    assert fedlab("inspect-model", "mpl").code == 2
    done = fedlab("inspect-model", "mlp", "--batches", "one")
    assert done.code == 2 and "expected numbers such as 1,2,4,8" in done.err
