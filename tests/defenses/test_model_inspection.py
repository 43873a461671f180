"""What a client sees of a malicious server in the weights that it is sent, and that honest ones pass."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from fedlab_defenses.model_inspection import SUSPICIOUS, inspect_model
from fedlab_defenses.tampering import signs
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

import fedlab
from fedlab import plugins
from fedlab.runtime import SimulationGrid
from fedlab.tasks import initialise

State = dict[str, Tensor]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def imprint(rows: int = 32, inputs: int = 64) -> State:
    """One measurement (the mean), and as many thresholds as rows."""
    return {
        "front.weight": torch.full((rows, inputs), 1 / inputs),
        "front.bias": -torch.linspace(0, 1, rows),
        "head.weight": torch.randn(10, rows, generator=stream()),
    }


def trap(rows: int = 32, inputs: int = 64, gamma: float = 0.96) -> State:
    """Boenisch et al., algorithm 1: half of each row negative, the other half minus gamma times it."""
    weight = torch.empty(rows, inputs)
    for row in range(rows):
        order = torch.randperm(inputs, generator=stream(row))
        sizes = torch.randn(inputs // 2, generator=stream(1000 + row)).abs()
        weight[row, order[: inputs // 2]] = -sizes
        weight[row, order[inputs // 2 :]] = gamma * sizes
    return {"first.weight": weight, "first.bias": torch.zeros(rows), "head.weight": torch.randn(10, rows)}


def fishing(feature: bool = False) -> State:
    """Wen et al.: only class 3 is left, the others are certain."""
    weight = torch.zeros(10, 32)
    weight[3] = torch.randn(32, generator=stream())
    if feature:
        weight[3] = torch.zeros(32).index_fill(0, torch.tensor([5]), 300.0)
    bias = torch.full((10,), 1000.0).index_fill(0, torch.tensor([3]), 0.0)
    return {"body.weight": torch.randn(32, 64, generator=stream(1)), "head.weight": weight, "head.bias": bias}


def test_each_attack_leaves_its_mark() -> None:
    (mark,) = signs(imprint())
    assert (mark.parameter, mark.attack) == ("front.weight", "an imprint layer")
    assert mark.evidence == "32 of 32 rows are parallel"
    (mark,) = signs(trap())
    assert (mark.parameter, mark.attack) == ("first.weight", "trap weights") and "times 0.96" in mark.evidence
    by_class = signs(fishing())
    assert [(one.parameter, one.attack) for one in by_class] == [
        ("head.weight", "fishing"),
        ("head.bias", "fishing"),
    ]
    assert "9 of 10 rows" in by_class[0].evidence and "1e+03" in by_class[1].evidence
    assert any("single feature" in one.evidence for one in signs(fishing(feature=True)))


def test_opposite_rows_are_parallel_too() -> None:
    state = imprint()
    state["front.weight"][::2] *= -3.0
    assert signs(state)[0].attack == "an imprint layer"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told(value: float) -> None:
    state = imprint() | {"front.bias": torch.full((32,), value)}
    assert [str(one) for one in signs(state)] == ["front.bias looks like a broken model: not finite"]


MODELS = [name for name in plugins.names("models") if name != "own"]


class Spec:
    def __init__(self, name: str) -> None:
        self.name, self.params = name, {}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_honest_networks_pass_as_they_start(name: str, seed: int) -> None:
    network = functools.partial(plugins.bind("models", Spec(name)), (1, 8, 8), 10)
    assert signs(initialise(network, seed).state_dict()) == []


def test_networks_that_start_from_zero_or_constants_pass() -> None:
    head = nn.Linear(64, 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    norm = nn.LayerNorm(64)
    assert signs(nn.Sequential(nn.Linear(64, 64), norm, head).state_dict()) == []


def reply(state: State, kind: str = "train", **options: object) -> Message:
    app = ClientApp(mods=[inspect_model(**options)])  # type: ignore[arg-type]

    @app.train()
    @app.evaluate()
    def work(asked: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": asked.content["arrays"]}), reply_to=asked)

    grid = SimulationGrid(app, 1)
    arrays = ArrayRecord({name: Array(value.numpy()) for name, value in state.items()})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    (node,) = grid.get_node_ids()
    (answer,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type=kind)])
    return answer


def test_a_client_refuses_a_suspicious_model_and_says_why() -> None:
    answer = reply(imprint())
    assert answer.has_error() and answer.error.code == SUSPICIOUS
    assert "front.weight looks like an imprint layer: 32 of 32 rows" in str(answer.error.reason)


def test_a_client_trains_on_an_honest_model_and_evaluates_any() -> None:
    honest = nn.Linear(64, 10).state_dict()
    assert np.array_equal(reply(honest).content["arrays"]["weight"].numpy(), honest["weight"].numpy())
    assert not reply(imprint(), "evaluate").has_error()


def test_another_structure_than_agreed_is_refused() -> None:
    honest = nn.Linear(64, 10).state_dict()
    agreed = {name: tuple(value.shape) for name, value in honest.items()}
    assert not reply(honest, expected=agreed).has_error()
    block = {"imprint.weight": torch.randn(8, 64, generator=stream())}
    assert "imprint.weight looks like another model: sent (8, 64), agreed nothing" in str(
        reply(honest | block, expected=agreed).error.reason
    )


def test_a_run_with_inspecting_clients_learns_the_same(tmp_path) -> None:
    settings = {
        "schema": 1,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 32}},
        "clients": {"count": 4},
        "strategy": {"rounds": 2},
        "runtime": {"executor": "inline"},
        "defenses": [{"name": "none"}, {"name": "model-inspection"}],
    }
    report = fedlab.run(settings, out=tmp_path / "run")
    plain, inspected = (row["accuracy"] for row in report.data["utility"])
    assert plain == inspected > 0.3
