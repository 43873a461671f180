"""What `fedlab inspect-model` finds: exact attacks on clients made for it, and knobs that close them."""

from __future__ import annotations

import json

import pytest
from torch import nn

import fedlab
from fedlab.errors import UsageError
from fedlab.experiment.inspecting import Inspection, exact_attacks
from fedlab.experiment.setup import build_task
from fedlab.scenario import load

VIT = {"schema": 1, "task": {"dataset": "digits", "model": {"name": "vit", "dim": 32, "depth": 1}}}
MLP = {"schema": 1, "task": {"dataset": "digits", "model": {"name": "mlp", "width": 32, "depth": 1}}}


def trial(found: Inspection, attack: str, batch: int) -> tuple[float | None, float]:
    (one,) = [one for one in found.trials if (one.attack, one.batch) == (attack, batch)]
    return one.psnr, one.recovered


def test_a_biased_first_layer_leaks_exactly_one_record_at_a_time() -> None:
    found = fedlab.inspect_model(MLP, batches=(1,), knobs=False)
    psnr, recovered = trial(found, "linear-layer", 1)
    assert psnr is not None and psnr > 100.0 and recovered == 1.0
    assert found.layers[0].separates == 1 and found.turns == []
    assert found.leaks[0].recovered == 1.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_fixed_positions_close_the_patch_solve_and_the_recheck_says_so() -> None:
    found = fedlab.inspect_model(VIT, batches=(1,))
    assert trial(found, "patch-embedding", 1)[1] == 1.0
    closing = {(one.knob, one.value) for one in found.turns if one.closes}
    assert ("positions", "fixed") in closing and ("dropout", 0.5) not in closing
    assert all(one.parameters > 0 for one in found.turns if not one.problem)


def test_dropout_does_not_close_it() -> None:
    found = fedlab.inspect_model(VIT, overrides=["task.model.dropout=0.75"], batches=(1,), knobs=False)
    assert trial(found, "patch-embedding", 1)[1] == 1.0


def test_your_own_network_is_inspected_without_knobs() -> None:
    settings = load(MLP)
    task = build_task(settings)
    own = type(task)(task.train, task.test, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    found = fedlab.inspect_model(settings, batches=(1,), task=own)
    assert found.model == "own network" and found.turns == []
    assert [one.kind for one in found.layers] == ["Linear"] and trial(found, "linear-layer", 1)[1] == 1.0


def test_only_exact_attacks_of_curious_servers_are_asked() -> None:
    names = [name for name, _ in exact_attacks()]
    assert "linear-layer" in names and "patch-embedding" in names
    assert not {"inverting-gradients", "imprint", "cascade"} & set(names)


@pytest.mark.parametrize(
    ("batches", "told"),
    [((), "batch sizes of at least 1"), ((0, 1), "at least 1"), ((500,), "smaller batches")],
)
def test_batches_that_cannot_be_are_refused(batches: tuple[int, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        fedlab.inspect_model(MLP, batches=batches)
