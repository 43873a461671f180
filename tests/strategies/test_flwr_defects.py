"""What flwr 1.41 gets wrong in aggregation, with its number and ours. Should one of these tests fail because
a later flwr gives our number, that test has done its work."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    Krum,
    Strategy,
)
from flwr.serverapp.strategy.multikrum import compute_distances

from fedlab import plugins
from fedlab.errors import FedlabError
from fedlab.runtime import SimulationGrid
from fedlab.strategies import SGD, Composition, Learner, Synchronous, Updates, as_aggregator
from fedlab.strategies.aggregators import median
from fedlab.strategies.aggregators.geometry import squared_distances
from fedlab.strategies.server_optimizers import Adam
from tests.runtime.apps import adding_app

load = functools.cache(plugins.load)  # finding a plugin takes longer than what is tested


def record(values: object, dtype: type = np.float32) -> ArrayRecord:
    return ArrayRecord({"w": Array(np.atleast_1d(np.asarray(values, dtype)))})


def replies(rows: list[list[float]], dtype: type = np.float32) -> list[Message]:
    SimulationGrid(adding_app(), 1)  # messages belong to a run, and it is one
    found = []
    for node, row in enumerate(rows, start=1):
        ask = Message(RecordDict({"arrays": record(row)}), dst_node_id=node, message_type=MessageType.TRAIN)
        answer = RecordDict({"arrays": record(row, dtype), "metrics": MetricRecord({"num-examples": 1})})
        found.append(Message(answer, reply_to=ask))
    return found


def flowers(strategy: Strategy, rows: list[list[float]]) -> list[float]:
    arrays, _ = strategy.aggregate_train(1, replies(rows, np.float64))
    assert arrays is not None
    found: list[float] = arrays["w"].numpy().tolist()
    return found


def ours(name: str, rows: list[list[float]], **params: object) -> list[float]:
    deltas = torch.tensor(rows, dtype=torch.float64)
    given = Updates(deltas, torch.ones(len(deltas), dtype=torch.float64), tuple(range(len(deltas))))
    found: list[float] = load("aggregators", name)(**params).aggregate(given, {})[0].tolist()
    return found


def test_bulyan_chooses_from_one_ranking_instead_of_anew() -> None:
    """n = 7, f = 1, so θ = 5 of 0, 1, 3, 7, 12, 15, 16; squared distances to the 4 nearest sum to 203, 162,
    110, 126, 131, 218, 267. The five best of that ranking are 0, 1, 3, 7, 12: median 3, nearest 3, 1, 0.

    Anew: 3 goes. Of 0, 1, 7, 12, 15, 16 with 3 neighbours 12 (9 + 16 + 25 = 50); of 0, 1, 7, 15, 16 with 2,
    1 (1 + 36 = 37); of 0, 7, 15, 16 with 1, 15 (as 16, but nearer to all); of 0, 7, 16, 7. Picked 1, 3, 7,
    12, 15: median 7, nearest 7, 3, 12.
    """
    rows = [[float(v)] for v in (0, 1, 3, 7, 12, 15, 16)]
    assert flowers(Bulyan(num_malicious_nodes=1), rows) == pytest.approx([4 / 3])
    assert ours("bulyan", rows, f=1) == pytest.approx([22 / 3])


def test_adam_is_corrected_for_a_step_that_was_not_taken() -> None:
    """Δ = 1 from 0, β = (.9, .99), η = .1, τ = 1e-9 in round 1: m = .1, √v = .1.

    Flower multiplies by √(1 − .99²) / (1 − .9²) = .74246, where Adam's correction would be √.01 / .1 = 1.
    Reddi et al. have none; with v from τ² the step is η m / √v = .1 in ours.
    """
    strategy = FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-9)
    strategy.current_arrays = {"w": np.zeros(1)}
    (step,) = flowers(strategy, [[1.0], [1.0]])
    assert step == pytest.approx(0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2), rel=1e-6)
    own, _ = Adam(0.1, 0.9, 0.99, 1e-9).step(torch.ones(1, dtype=torch.float64), {})
    assert float(own) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian])
def test_one_client_with_nan_makes_the_model_nan(strategy: type[Strategy]) -> None:
    """Ours refuses the update by name (the run's guard turns it away before that)."""
    rows = [[1.0], [2.0], [float("nan")]]
    assert np.isnan(flowers(strategy(), rows)).all()
    own = Composition(Learner(as_aggregator(median), SGD(), ["w"], 0), Synchronous(3, 0))
    own._sent = {"w": torch.zeros(1)}
    with pytest.raises(FedlabError, match="nodes 3 sent updates with NaN"):
        own.aggregate_train(1, replies(rows))


def test_krums_distances_are_noise_in_float32() -> None:
    """Models of length ~22 that differ by 1e-3 in one of 200,000 weights: squared distance 1e-6.

    float32 resolves 500 + 500 − 1000 to about 6e-5: what flwr ranks by is rounding.
    """
    base = np.random.default_rng(0).normal(0, 0.05, 200_000).astype(np.float32)
    models = [base.copy() for _ in range(5)]
    for i, model in enumerate(models):
        model[i] += np.float32(1e-3)
    theirs = compute_distances([record(model) for model in models])
    exact = squared_distances(torch.tensor(np.stack(models) - base).double())
    assert float(exact[0, 1]) == pytest.approx(2e-6, rel=1e-3)
    assert abs(float(theirs[0, 1]) - 2e-6) > 1e-5 or float(theirs.min()) < 0.0


def test_krum_takes_fewer_clients_than_it_can_tell_apart() -> None:
    """n = 4, f = 1 is below 2f + 3 = 5: flwr ranks by one neighbour, so that two attackers' twins win."""
    rows = [[0.0], [1.0], [9.0], [9.0]]
    assert flowers(Krum(num_malicious_nodes=1), rows) == [9.0]
    assert plugins.build("aggregators", "krum", f=1).minimum == 5


def test_adaptive_clipping_moves_the_bound_away_from_the_median() -> None:
    """All updates have length 4 and the bound is 1: all are clipped, so that it must rise by
    exp(.2 · .5) = 1.105 (Andrew et al. 2021, https://arxiv.org/abs/1905.03871); flwr's falls to .905.
    """
    wrapped = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=0.0, num_sampled_clients=2, initial_clipping_norm=1.0
    )
    wrapped.current_arrays = record([0.0])
    wrapped.aggregate_train(1, replies([[4.0], [4.0]]))
    assert wrapped.clipping_norm == pytest.approx(np.exp(-0.1))
    bounded = ours("norm-bounding", [[4.0], [4.0]], max_norm=1.0)
    assert bounded == [1.0], "ours has a fixed bound; its adaptive clipping (arc) follows the lengths:"
    given = Updates(torch.tensor([[4.0], [4.0], [40.0]]).double(), torch.ones(3).double(), (0, 1, 2))
    assert plugins.build("preaggregators", "arc", f=1)(given).deltas.tolist() == [[4.0], [4.0], [4.0]]
