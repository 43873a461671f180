"""Answers of clients that are not just the arrays that were sent, as apps of others give them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from app_by_hand import batches, numbered, ran_by_hand
from app_in_folder import app, ran
from flwr.app import Array
from test_app_audit import audited
from torch import nn

from fedlab.apps.contract import Ran, Sight
from fedlab.apps.facts import Facts, infer
from fedlab.apps.given import Adapter
from fedlab.apps.messages import numbers, paired, told, whole
from fedlab.apps.recorded import bare, observations
from fedlab.audit import KnownConfig
from fedlab.tasks import FunctionalModel

SHAPE = (1, 4, 4)
W, B = np.ones((2, 3), np.float32), np.zeros(3, np.float32)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))


def sight(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> Sight:
    return Sight(1, 0, before, after)


def fact(facts: Facts, name: str) -> str:
    return next(one.value for one in facts.listed if one.name == name)


def other(ran: Ran, **sent: np.ndarray) -> Ran:
    """The same with more arrays both ways."""
    sights = [replace(one, before={**one.before, **sent}, after={**one.after, **sent}) for one in ran.sights]
    return replace(ran, sights=sights)


class TestPairs:
    def test_by_name_whatever_the_order(self) -> None:
        found = paired(sight({"w": W, "b": B}, {"b": B + 1, "w": W + 1}))
        assert list(found.after) == ["w", "b"] and found.after["b"][0] == 1
        assert whole(sight({"w": W, "b": B}, {"b": B, "w": W}))

    def test_what_came_back_alone_or_more(self) -> None:
        assert list(paired(sight({"w": W, "b": B}, {"b": B})).before) == ["b"]
        assert list(paired(sight({"b": B}, {"b": B, "c/b": B})).after) == ["b"]

    def test_by_place_where_names_differ(self) -> None:
        found = paired(sight({"0": W, "b": B}, {"w": W + 1, "b": B}))
        assert list(found.after) == ["0", "b"] and found.after["0"][0, 0] == 2

    def test_another_shape_is_another_array(self) -> None:
        assert not paired(sight({"w": W}, {"w": W.T})).before
        assert not whole(sight({"w": W}, {"w": W.T}))

    def test_names_and_shapes_in_words(self) -> None:
        assert told({"w": W, "b": B}, 1) == "w (2, 3), ... (2 in all)" and told({}) == "none"


def test_bare_bytes_are_the_numbers_that_they_declare() -> None:
    """Some apps put `tobytes()` into an Array, and read it back by themselves."""
    bare_bytes = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=W.tobytes())
    assert np.array_equal(numbers(bare_bytes), W)  # type: ignore[arg-type]
    assert np.array_equal(numbers(Array(W)), W)  # type: ignore[arg-type]
    for wrong in ({"shape": (2, 4)}, {"dtype": "secret"}):
        fields = {"dtype": "float32", "shape": (2, 3), "stype": "numpy.ndarray", "data": W.tobytes(), **wrong}
        assert numbers(Array(**fields)) is None  # type: ignore[arg-type]


def test_an_app_that_sends_bare_bytes(tmp_path: Path) -> None:
    pack = (
        "from flwr.app import Array; arrays = ArrayRecord({key: Array(dtype='float32', shape=one.shape,"
        " stype='numpy.ndarray', data=one.numpy().tobytes()) for key, one in arrays.items()})"
    )
    made = app(tmp_path, "bare_bytes", client_after=pack)
    server = made.path / "bare_bytes" / "server_app.py"
    server.write_text(
        server.read_text().replace(
            "strategy.start(", "strategy.aggregate_train = lambda *a: (None, None)\n    strategy.start("
        )
    )
    found = ran(made, rounds=1)
    assert found.failed == 0 and len(found.sights) == 3
    assert {key: one.shape for key, one in found.sights[0].after.items()} == {"weight": (3, 4), "bias": (3,)}


class TestFacts:
    def test_a_part_that_comes_back_is_what_is_attacked(self) -> None:
        """The rest is what a message does not carry: nobody learns how it changed."""
        ran = ran_by_hand(mlp(), [batches([4], SHAPE)], after=lambda arrays: dict(list(arrays.items())[:2]))
        facts = infer(ran, Adapter())
        assert facts.view is not None and facts.view.personal == {"3.weight", "3.bias"}
        assert fact(facts, "answers") == "2 arrays of 4 that were sent and 2 that came back"

    def test_other_records_beside_the_model_are_left_alone(self) -> None:
        """A control variate that travels both ways has the shapes of weights, and is none."""
        ran = other(ran_by_hand(mlp(), [batches([4], SHAPE)], names=numbered), **{"control/0": W})
        facts = infer(ran, Adapter())
        assert facts.view is not None and list(facts.view.names) == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_changes_are_told_from_weights(self, sign: int) -> None:
        """What is attacked is the same update as that of an app that sends weights."""
        plain = ran_by_hand(mlp(), [batches([4], SHAPE)])
        before, after = plain.sights[0].before, plain.sights[0].after
        change = {key: sign * (after[key] - before[key]) for key in before}
        moved = replace(plain, sights=[replace(plain.sights[0], after=change)])
        facts, usual = infer(moved, Adapter()), infer(plain, Adapter())
        assert facts.view is not None and usual.view is not None and facts.doubts == []
        told = fact(facts, "answers hold")
        assert told == "the change of the weights" + ("" if sign > 0 else ", with its sign turned")
        assert not any(one.name == "answers hold" for one in usual.listed)
        model = FunctionalModel(facts.view.network, SHAPE)
        (found,), (same,) = (
            observations(ran, one.told, one.view, model)  # type: ignore[arg-type]
            for ran, one in ((moved, facts), (plain, usual))
        )
        for name, value in same.update.items():
            assert torch.allclose(found.update[name], value, atol=1e-7)

    def test_answers_that_are_no_weights_are_an_obstacle(self) -> None:
        """Embeddings of vertical learning, say."""
        ran = ran_by_hand(mlp(), [batches([4], SHAPE)], after=lambda arrays: {"embedding": np.ones((6, 4))})
        facts = infer(ran, Adapter())
        assert "clients answer with other arrays (embedding (6, 4))" in facts.obstacles[0]
        assert fact(facts, "answered") == "24 numbers: embedding (6, 4)"
        assert bare(ran.sights[0], KnownConfig()).update == {}

    def test_of_training_without_torch_the_messages_are_told(self) -> None:
        ran = replace(ran_by_hand(mlp(), [batches([4], SHAPE), batches([3], SHAPE)]), recordings={})
        facts = infer(ran, Adapter())
        assert fact(facts, "sent to clients").startswith("226 numbers: 1.weight (8, 16)")
        assert fact(facts, "records") == "3 to 4" and fact(facts, "clients also tell") == "num-examples"
        assert "something else, or not at all" in facts.obstacles[0]

    def test_nothing_is_asked_for_where_no_answer_would_help(self) -> None:
        """An autoencoder gives a tuple, and its loss is no cross entropy: no adapter makes labels of that."""

        class Auto(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = mlp()

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                hidden = self.inner(x)
                return hidden, hidden

        run = ran_by_hand(
            Auto(),
            [batches([4], SHAPE)],
            loss=lambda outputs, targets: outputs[0].square().mean(),
            called="mse_loss",
        )
        facts = infer(run, Adapter())
        assert facts.view is None and "the loss is mse_loss" in facts.obstacles[0]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_numbers_of_any_type(kind: str) -> None:
    assert np.array_equal(numbers(Array(W.astype(kind))), W)  # type: ignore[arg-type]


def test_a_report_on_what_was_not_attacked_does_not_send_for_more_rounds(tmp_path: Path) -> None:
    run = replace(ran_by_hand(mlp(), [batches([4], SHAPE)]), recordings={})
    report = audited(run, tmp_path)
    told_limits = " ".join(map(str, report.data["limits"]))
    assert "for the reason that stands above the facts on the app" in told_limits
    assert "observe more rounds" not in told_limits
