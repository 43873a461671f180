"""User-level DP: what one user can change, the noise's size, and what is charged and claimed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedlab_defenses.privacy.central import ZERO_OUT, clipped_sum
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.user_dp import NoisyMean, UserDP
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger, epsilon_of
from fedlab.privacy.gaussian import gaussian_epsilon
from fedlab.strategies import Updates, as_aggregator
from fedlab.strategies.aggregators import PreAggregated, median, weighted_mean
from fedlab.strategies.aggregators.preaggregation import Bucketing


def federation(**changes: Any) -> Federation:
    return Federation(
        **{"records": (10,) * 200, "rounds": 50, "config": ClientConfig(), "cohort": 4} | changes
    )


def updates(deltas: Tensor, clients: tuple[int, ...] | None = None, seed: int = 0) -> Updates:
    ids = tuple(range(len(deltas))) if clients is None else clients
    return Updates(
        deltas,
        torch.arange(1.0, len(deltas) + 1, dtype=torch.float64),
        ids,
        generator=torch.Generator().manual_seed(seed),
    )


def drawn(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_noise_and_clipping_it_is_the_plain_mean_over_a_fixed_number() -> None:
    """Of 3 updates where 4 were expected: their sum over 4. Weights by records do not count."""
    deltas = drawn(3, 5, 1)
    mean, _ = NoisyMean(1e9, 0.0, 4).aggregate(updates(deltas), {})
    torch.testing.assert_close(mean, deltas.sum(0) / 4)


@given(
    seed=st.integers(0, 2**31),
    clients=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    clip=st.floats(0.01, 5.0),
)
def test_one_user_moves_the_sum_by_at_most_the_clip(seed: int, clients: list[int], clip: float) -> None:
    """Each user in turn is left out, wherever it stands and however often it is there."""
    deltas = 3.0 * drawn(len(clients), 6, seed)
    whole = clipped_sum(updates(deltas, tuple(clients)), clip)
    for user in set(clients):
        rows = [row for row, client in enumerate(clients) if client != user]
        others = clipped_sum(updates(deltas[rows], tuple(clients[row] for row in rows)), clip)
        assert float((whole - others).norm()) <= clip * (1 + 1e-9)


def test_a_user_who_is_twice_in_a_buffer_is_clipped_once() -> None:
    """Two updates (3, 4) of one user: together (6, 8), of length 10, clipped to 5: (3, 4)."""
    one = torch.tensor([3.0, 4.0], dtype=torch.float64)
    both = updates(torch.stack([one, one]), (7, 7))
    torch.testing.assert_close(clipped_sum(both, 5.0), one)
    assert UserDP(noise_multiplier=1.0).charge((7, 7), 3, federation()) == [
        Event(7, 3, 1.0, 1.0, 1, place="server")
    ]


def test_a_zero_update_stays_zero() -> None:
    assert torch.equal(clipped_sum(updates(torch.zeros(2, 3).double()), 1.0), torch.zeros(3).double())


def test_the_noise_has_the_claimed_size() -> None:
    """(noise · K / (σ C))² of 40,000 coordinates: χ² within 5 standard deviations."""
    made, _ = NoisyMean(0.5, 2.0, 8).aggregate(updates(torch.zeros(3, 40_000).double(), seed=3), {})
    squares = float((made * 8 / (2.0 * 0.5)).square().sum())
    assert abs(squares - 40_000) < 5 * (2 * 40_000) ** 0.5


def test_epsilon_is_composed_over_the_users_own_rounds() -> None:
    """Without sampling: exactly a Gaussian with μ = √rounds / σ; the accountant's is an upper estimate."""
    defense, fed = UserDP(noise_multiplier=4.0), federation()
    ledger = Ledger()
    for number in range(1, 11):
        ledger.events += defense.charge((0, 1) if number < 4 else (0,), number, fed)
    found = defense.guarantee(ledger)
    assert found is not None and found.epsilon == found.per_client[0] > found.per_client[1]
    for client, rounds in ((0, 10), (1, 3)):
        exact = gaussian_epsilon(rounds**0.5 / 4.0, 1e-5)
        assert exact <= found.per_client[client] <= 1.01 * exact
    assert found.adjacency == ZERO_OUT and found.participations == {0: 10, 1: 3}


def test_amplification_is_claimed_under_poisson_sampling_alone_and_over_all_rounds() -> None:
    """A user who happened to be drawn once had the chance in every round: all 40 count, each at q = 0.2."""
    defense, fed = UserDP(noise_multiplier=1.0), federation(rate=0.2, rounds=40)
    ledger = Ledger(defense.charge((3,), 2, fed) + defense.charge((5,), 40, fed))
    found = defense.guarantee(ledger)
    assert found is not None and found.adjacency == "add or remove one user"
    assert found.per_client == dict.fromkeys((3, 5), epsilon_of({(1.0, 0.2): 40}, 1e-5).epsilon)


def test_rounds_that_may_be_empty_are_not_amplified() -> None:
    """20 users at q = 0.2: nobody comes with probability 0.8^19, and the skipped round would tell."""
    assert UserDP(noise_multiplier=1.0).rate(federation(records=(1,) * 20, rate=0.2)) == 1.0
    assert UserDP(noise_multiplier=1.0).rate(federation(rate=0.2)) == 0.2
    assert UserDP(noise_multiplier=1.0).rate(federation(rate=0.2, dropout=0.1)) == 0.2
    assert UserDP(noise_multiplier=1.0).rate(federation(rate=0.2, dropout=0.5)) == 1.0  # 0.9^199 = 8e-10


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({}, {1.0: 50}), ({"participations": 3}, {1.0: 3}), ({"rate": 0.2, "participations": 3}, {0.2: 50})],
)
def test_a_target_holds_for_the_most_that_one_user_can_take_part(
    changes: dict[str, Any], steps: dict[float, int]
) -> None:
    sigma = UserDP(epsilon=2.0).sigma(federation(**changes))
    spent = epsilon_of({(sigma, rate): count for rate, count in steps.items()}, 1e-5).epsilon
    assert 1.95 < spent <= 2.0


def test_updates_that_were_turned_away_for_what_they_held_end_the_guarantee() -> None:
    """Somebody else may have come in their place, because of a user's records."""
    defense = UserDP(noise_multiplier=1.0)
    ledger = Ledger(defense.charge((0,), 1, federation()), turned_away={4})
    found = defense.guarantee(ledger)
    assert found is not None
    assert [a.text for a in found.assumptions if not a.holds] == [
        "no update was turned away for what it held (those of 1 clients were)"
    ]


def test_without_noise_or_without_participation_there_is_no_guarantee() -> None:
    defense = UserDP(noise_multiplier=0.0)
    found = defense.guarantee(Ledger(defense.charge((0,), 1, federation())))
    assert found is not None and found.epsilon is None and "clipping alone" in str(found.reason)
    assert defense.guarantee(Ledger()) is None


def test_clients_send_an_update_and_no_figures() -> None:
    rule = UserDP(noise_multiplier=1.0).local_rule(FedProx(mu=0.1), federation())
    assert rule.metrics(10, 3, 0.7) == {} and not rule.shares_buffers
    inside = DPSGD(noise_multiplier=1.0).local_rule(LocalRule(), federation())
    told = UserDP(noise_multiplier=1.0).local_rule(inside, federation()).metrics(10, 3, 0.7)
    assert told == inside.metrics(10, 3, 0.7)  # the settings of its noise, which its own ledger needs


def test_what_no_noise_covers_is_refused_by_name() -> None:
    defense, fed = UserDP(noise_multiplier=1.0), federation()
    with pytest.raises(UsageError, match="median"):
        defense.aggregator(as_aggregator(median), fed)
    with pytest.raises(UsageError, match="Bucketing"):
        defense.aggregator(PreAggregated(Bucketing(size=2), as_aggregator(weighted_mean)), fed)
    with pytest.raises(UsageError, match="Scaffold"):
        defense.local_rule(Scaffold(), fed)
    assert isinstance(defense.aggregator(as_aggregator(weighted_mean), fed), NoisyMean)
    assert isinstance(defense.local_rule(LocalRule(), fed), LocalRule)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "either"),
        ({"noise_multiplier": 1.0, "epsilon": 1.0}, "either"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 1.0, "clip": 0.0}, "clip"),
        ({"epsilon": 1.0, "clip": float("inf")}, "clip"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta"),
    ],
)
def test_numbers_out_of_range_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        UserDP(**settings)
