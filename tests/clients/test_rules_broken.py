"""A local rule that steps along something of another shape fails its clients, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.clients import LocalRule
from fedlab.errors import FedlabError

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 4, "depth": 1}},
    "clients": {"count": 3, "batch_size": 32, "local_steps": 1},
    "strategy": {"rounds": 1},
    "runtime": {"executor": "inline"},
}


class Broadcast(LocalRule):
    """The first row of each gradient, which torch would add to every row without a word."""

    def direction(self, grad_fn: Any, parameters: Any, batch: Any, carry: Any) -> Any:
        gradient, aux = grad_fn(parameters, batch)
        return {name: value[:1] for name, value in gradient.items()}, aux, carry


class Forgetful(LocalRule):
    """Nothing at all."""

    def direction(self, grad_fn: Any, parameters: Any, batch: Any, carry: Any) -> Any:
        return {}, grad_fn(parameters, batch)[1], carry


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Broadcast(), r"Broadcast steps along \(1, 64\) for 'linear1.weight'; .* shape \(4, 64\)"),
        (Forgetful(), r"Forgetful steps along None for 'linear1.weight'"),
    ],
)
def test_a_direction_of_another_shape_is_refused(rule: LocalRule, message: str, tmp_path: Path) -> None:
    with pytest.raises(FedlabError, match=message):
        fedlab.run(SCENARIO, out=tmp_path / "run", local_rule=rule)
