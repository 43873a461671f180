"""Flower's server-side DP as a defense: what it adds, what it goes around, and what a server sees anyway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.flower_dp import FlowerDP
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import strategy as older
from flwr.serverapp.strategy import FedAvg
from scipy.stats import chi2

import fedlab
from fedlab.audit import archive
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.runtime._flower import enter_run, error_reply

WIDTH = 20_000


def record(value: np.ndarray | float) -> ArrayRecord:
    whole = np.broadcast_to(np.asarray(value, np.float32), (WIDTH,))
    return ArrayRecord({"weight": Array(whole[:-8].copy()), "bias": Array(whole[-8:].copy())})


def flat(arrays: ArrayRecord | None) -> np.ndarray:
    assert arrays is not None
    return np.concatenate([one.ravel() for one in arrays.to_numpy_ndarrays()])


class Asks(FedAvg):
    """FedAvg that asks `count` clients, and draws from numpy's generator when it does."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.drawn = count, 0.0

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        enter_run()
        self.drawn = float(np.random.normal())
        content = RecordDict({"arrays": arrays, "config": config})
        return (Message(content, dst_node_id=node, message_type="train") for node in range(self.count))


def a_round(
    strategy: Any,
    models: Sequence[ArrayRecord | None],
    number: int = 1,
    weights: Sequence[int] | None = None,
) -> ArrayRecord | None:
    """A round that began with zeros, and whose clients sent these models; None for one that failed."""
    asked = strategy.configure_train(number, record(0.0), ConfigRecord(), None)
    replies = []
    for message, model, weight in zip(asked, models, weights or [1] * len(models), strict=True):
        if model is None:
            replies.append(error_reply(message, "gone"))
            continue
        content = RecordDict({"arrays": model, "metrics": MetricRecord({"num-examples": weight})})
        replies.append(Message(content, reply_to=message))
    arrays, _ = strategy.aggregate_train(number, replies)
    return arrays  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def seeded() -> Any:
    before = np.random.get_state()
    np.random.seed(3)
    yield
    np.random.set_state(before)


def fits(noise: np.ndarray, deviation: float) -> bool:
    """Σ ξ² / s² is chi-square of d degrees; refused with probability 1e-6."""
    found = float((noise**2).sum()) / deviation**2
    return bool(2 * min(chi2.cdf(found, noise.size), chi2.sf(found, noise.size)) > 1e-6)


@pytest.mark.parametrize("clients", [1, 4, 10])
def test_the_noise_is_that_of_flwrs_formula(clients: int) -> None:
    """z C / K with K as many as the round asks; it is white, and another in the next round."""
    strategy = FlowerDP(clip=0.5, noise_multiplier=1.2).strategy(Asks(clients))
    models = [record(1e-5) for _ in range(clients)]  # ‖Δ‖ = 1e-5 √20000 = 0.0014: nothing is clipped
    noise = [flat(a_round(strategy, models, number)).astype(float) - 1e-5 for number in (1, 2)]
    deviation = 1.2 * 0.5 / clients
    assert all(fits(one, deviation) for one in noise)
    assert not fits(noise[0], 1.05 * deviation), "the test tells 5 % apart"
    for one, other in ((noise[0], noise[1]), (noise[0][1:], noise[0][:-1])):
        assert abs(float(np.mean(one * other))) < 6.0 * deviation**2 / one.size**0.5


def test_updates_are_clipped_before_they_are_averaged() -> None:
    """Of lengths 10 and 0.5 in one direction with C = 1: (1 + 0.5) / 2 in it. With weights 3 and 1: 0.875."""
    unit = 1.0 / WIDTH**0.5
    for weights, length in (([1, 1], 0.75), ([3, 1], 0.875)):
        strategy = FlowerDP(clip=1.0, noise_multiplier=0.0).strategy(Asks(2))
        found = flat(a_round(strategy, [record(10.0 * unit), record(0.5 * unit)], weights=weights))
        np.testing.assert_allclose(found, length * unit, rtol=1e-5)


def test_the_next_cohort_is_drawn_as_without_it() -> None:
    """What the strategy draws when it asks, and whoever draws afterwards; the noise itself repeats."""
    plain, models, found = Asks(2), [record(1.0), record(2.0)], []
    for number in (1, 2):
        a_round(plain, models, number)
    after = np.random.normal()
    for _ in range(2):
        np.random.seed(3)
        inner = Asks(2)
        wrapped = FlowerDP().strategy(inner)
        found.append([flat(a_round(wrapped, models, number)) for number in (1, 2)])
        assert inner.drawn == plain.drawn and np.random.normal() == after
    assert np.array_equal(*found)
    np.random.seed(4)
    assert not np.allclose(found[0][0], flat(a_round(FlowerDP().strategy(Asks(2)), models)))


def test_a_round_in_which_a_client_fails_makes_no_model_and_says_so() -> None:
    strategy = FlowerDP().strategy(Asks(2))
    assert a_round(strategy, [record(1.0), None]) is None
    assert "1 of 2 clients failed" in strategy.why_skipped
    assert a_round(strategy, [record(1.0), record(1.0)], 2) is not None and strategy.why_skipped == ""


def test_what_flwr_fails_on_has_a_name() -> None:
    turned = ArrayRecord(dict(reversed(list(record(1.0).items()))))
    for model, words in ((record(0.0), "divides by the norm"), (turned, "other arrays")):
        with pytest.raises(UsageError, match=words):
            a_round(FlowerDP().strategy(Asks(1)), [model])


class TestOlderServers:
    @staticmethod
    def a_round(strategy: Any, models: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
        def parameters(value: float) -> Parameters:
            return ndarrays_to_parameters([np.full(WIDTH, value, np.float32)])

        asked = [(None, FitIns(parameters(0.0), {})) for _ in models]
        monkeypatch.setattr(older.FedAvg, "configure_fit", lambda *args, **named: asked)
        assert strategy.configure_fit(1, parameters(0.0), None) == asked
        told = [(None, FitRes(Status(Code.OK, ""), parameters(value), 1, {})) for value in models]
        made, _ = strategy.aggregate_fit(1, told, [])
        (found,) = parameters_to_ndarrays(made)
        return np.asarray(found, float)

    def test_the_same_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = np.random.get_state()[1].copy()  # type: ignore[index]
        strategy = FlowerDP(clip=0.5, noise_multiplier=1.2).strategy(older.FedAvg())
        assert fits(self.a_round(strategy, [1e-5] * 4, monkeypatch) - 1e-5, 1.2 * 0.5 / 4)
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]

    def test_an_update_of_zeros_has_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UsageError, match="divides by the norm"):
            self.a_round(FlowerDP().strategy(older.FedAvg()), [0.0], monkeypatch)


def scenario(defense: Mapping[str, Any], **strategy: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "flower-dp",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": [6]}},
        "clients": {"count": 8, "batch_size": 8, "local_steps": 2},
        "strategy": {"rounds": 2, "cohort": 4, **strategy},
        "defenses": [{"name": "none"}, {"name": "flower-dp", **defense}],
        "audit": {"rounds": [1, 2]},
        "runtime": {"executor": "inline"},
    }


def left(run: Path) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """By defense: what the server saw and the model, and the cells' metrics."""
    from safetensors.torch import load_file

    cells = ("none-train-s0", "flower-dp-train-s0")
    seen = {cell: archive.load(run / "observations" / cell) for cell in cells}
    models = {cell: load_file(run / "models" / cell / "model.safetensors") for cell in cells}
    return seen, models, json.loads((run / "metrics.json").read_text())["cells"]


class TestInAScenario:
    def test_without_noise_and_clipping_it_is_the_undefended_run(self, tmp_path: Path) -> None:
        """To float32: flwr subtracts the model from each update and adds it again."""
        fedlab.run(scenario({"clip": 1e9, "noise_multiplier": 0.0}), out=tmp_path / "run")
        _, models, _ = left(tmp_path / "run")
        plain, wrapped = models.values()
        for name, value in plain.items():
            torch.testing.assert_close(wrapped[name], value, rtol=1e-5, atol=1e-6)

    def test_the_server_sees_what_it_saw_without(self, tmp_path: Path) -> None:
        """Bit for bit in round 1, whatever the noise; the models of round 2 are others."""
        fedlab.run(scenario({"clip": 0.01, "noise_multiplier": 2.0}), out=tmp_path / "run")
        seen, _, cells = left(tmp_path / "run")
        rounds = {1: 0, 2: 0}
        for one, other in zip(*seen.values(), strict=True):
            assert (one.round, one.client) == (other.round, other.client)
            rounds[one.round] += 1
            same = all(torch.equal(one.update[name], other.update[name]) for name in one.update)
            assert same == (one.round == 1)
        assert rounds == {1: 4, 2: 4}
        assert not list((tmp_path / "run" / "privacy").glob("flower-dp-*-s0.json")), "nothing is proved"
        assert cells["flower-dp-train-s0"]["skipped_rounds"] == 0

    def test_it_has_checkpoints_where_the_strategy_inside_has(self, tmp_path: Path) -> None:
        strategy = FlowerDP().strategy(Asks(1))
        assert not hasattr(strategy, "snapshot"), "flwr's strategies have no checkpoints"
        asked = scenario({"noise_multiplier": 1.0}) | {"checkpoint": {"every": 1}}
        fedlab.run(asked, out=tmp_path / "run")
        events = (tmp_path / "run" / "events.jsonl").read_text()
        assert "no checkpoints" not in events

    @pytest.mark.parametrize(("name", "cohort"), [("fedbuff", 2), ("fedasync", 1)])
    def test_an_asynchronous_server_is_refused(self, tmp_path: Path, name: str, cohort: int) -> None:
        asked = scenario({}, name=name, cohort=cohort, options={"concurrency": 4})
        with pytest.raises(UsageError, match=f"(?i)flower-dp wraps strategies .* {name}"):
            fedlab.run(asked, out=tmp_path / "run")

    def test_rules_whose_server_does_more_are_refused(self) -> None:
        federation = Federation((10,) * 4, 1, ClientConfig(), 2)
        plain = LocalRule()
        assert FlowerDP().local_rule(plain, federation) is plain
        with pytest.raises(UsageError, match="flower-dp covers one update"):
            FlowerDP().local_rule(Scaffold(), federation)


@pytest.mark.parametrize("params", [{"clip": 0.0}, {"noise_multiplier": -1.0}, {"clip": float("inf")}])
def test_numbers_out_of_range(params: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(params))):
        FlowerDP(**params)


def test_only_strategies_are_wrapped() -> None:
    with pytest.raises(UsageError, match="this is a int"):
        FlowerDP().strategy(3)
