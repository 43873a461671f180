"""`fedlab inspect-model`: tables, JSON, and its mistakes."""

from __future__ import annotations

import json
from typing import Any

from fedlab.cli.inspect import _alike


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
    done = fedlab("inspect-model", "mpl")
    assert done.code == 2 and 'no model or scenario is called "mpl". Did you mean "mlp"?' in done.err
    done = fedlab("inspect-model", "mlp", "--batches", "one")
    assert done.code == 2 and "expected numbers such as 1,2,4,8" in done.err


def test_verdicts_that_differ_in_their_figures_are_told_once() -> None:
    """Two residuals are one verdict; another reason is another."""
    said = _alike(
        ["residual 5.1e-01, rounding 3e-05", "residual 4.7e-01, rounding 2e-05", "unique (1 record)"]
    )
    assert said == "residual 5.1e-01, rounding 3e-05 (other clients: other figures); unique (1 record)"
    assert _alike(["unique (4 records)"]) == "unique (4 records)"
