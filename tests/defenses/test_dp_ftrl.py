"""DP-FTRL: the noise on the sums so far, restarts, and ε of who took part when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedlab_defenses.privacy.dp_ftrl import DPFTRL, TreeMean
from torch import Tensor

from fedlab.clients import ClientConfig, Federation
from fedlab.errors import UsageError
from fedlab.privacy import Ledger
from fedlab.privacy.gaussian import gaussian_epsilon
from fedlab.strategies import Updates, as_aggregator
from fedlab.strategies.aggregators import mean

D = 20_000


def federation(**changes: Any) -> Federation:
    return Federation(
        **{"records": (10,) * 50, "rounds": 16, "config": ClientConfig(), "cohort": 4} | changes
    )


def run(tree: TreeMean, rounds: list[int], deltas: Tensor | None = None) -> list[Tensor]:
    """What the tree returns in these rounds, with the same updates in each of them."""
    given = torch.zeros(2, D, dtype=torch.float64) if deltas is None else deltas
    found, state = [], {}
    for number in rounds:
        updates = Updates(given, torch.ones(2, dtype=torch.float64), (0, 1), round=number)
        made, state = tree.aggregate(updates, state)
        found.append(made)
    return found


def sums(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).cumsum(0)


@pytest.mark.parametrize("restart", [None, 5, 8])
def test_the_noise_on_the_sum_so_far_has_one_node_per_bit(restart: int | None) -> None:
    """σ C = 1.5 and K = 4: the variance after round t is (1.5 / 4)² times the ones of t, and of every tree
    that ended one more. 20,000 coordinates: within 5 standard deviations."""
    prefixes = sums(run(TreeMean(0.5, 3.0, 4, restart, seed=1), list(range(1, 17))))
    for number, prefix in enumerate(prefixes, 1):
        ended, position = (0, number) if restart is None else divmod(number, restart)
        count = ended + bin(position).count("1")
        squares = float((prefix * 4 / 1.5).square().sum()) / count
        assert abs(squares - D) < 5 * (2 * D) ** 0.5


def test_the_updates_themselves_add_up() -> None:
    """Two updates of length 1 within the clip: each round adds their sum over K, noise aside."""
    deltas = torch.zeros(2, D, dtype=torch.float64)
    deltas[:, 0] = 1.0
    noisy = sums(run(TreeMean(1.0, 2.0, 4, None, seed=1), list(range(1, 9)), deltas))
    noise = sums(run(TreeMean(1.0, 2.0, 4, None, seed=1), list(range(1, 9))))
    expected = torch.arange(1, 9, dtype=torch.float64) * 2 / 4
    torch.testing.assert_close((noisy - noise)[:, 0], expected)


@pytest.mark.parametrize("restart", [None, 4])
def test_skipped_rounds_leave_gaps_and_the_noise_where_it_would_have_been(restart: int | None) -> None:
    """The noise of a sum depends on where it ends, and not on the rounds that led there; of trees that ended,
    on their last round."""
    whole = sums(run(TreeMean(1.0, 1.0, 4, restart, seed=2), list(range(1, 12))))
    some = sums(run(TreeMean(1.0, 1.0, 4, restart, seed=2), [1, 3, 4, 7, 8, 11]))
    for at, number in enumerate([1, 3, 4, 7, 8, 11]):
        torch.testing.assert_close(some[at], whole[number - 1])


def test_a_restart_draws_nodes_of_its_own() -> None:
    """Rounds 1 and 5 both start a tree of 4: with the same nodes their noise would cancel in a difference."""
    parts = run(TreeMean(1.0, 1.0, 1, 4, seed=3), [1, 2, 3, 4, 5])
    both = torch.stack([parts[0], parts[4]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / D**0.5


def test_what_it_remembers_is_a_number() -> None:
    updates = Updates(torch.ones(1, 3).double(), torch.ones(1).double(), (0,), round=6)
    assert TreeMean(1.0, 1.0, 1, None, 0).aggregate(updates, {})[1] == {"round": 6}


def ledger_of(defense: DPFTRL, rounds: dict[int, list[int]], **changes: Any) -> Ledger:
    fed = federation(**changes)
    return Ledger(
        [e for client, mine in rounds.items() for r in mine for e in defense.charge([client], r, fed)]
    )


def test_epsilon_is_that_of_each_users_own_rounds_in_the_tree() -> None:
    """8 rounds, σ = 5. Client 0, in round 1, is in the nodes that end at 1, 2, 4 and 8: μ² = 4/25. Client 1,
    in round 8, is in the last alone: 1/25. Client 2, in 1 and 2, is once in the first and twice in the
    other three: (1 + 3·4)/25."""
    defense = DPFTRL(noise_multiplier=5.0)
    found = defense.guarantee(ledger_of(defense, {0: [1], 1: [8], 2: [1, 2]}))
    assert found is not None
    for client, squared in ((0, 4), (1, 1), (2, 13)):
        exact = gaussian_epsilon(squared**0.5 / 5.0, 1e-5)
        assert found.per_client[client] == pytest.approx(exact, abs=1e-8)
    assert found.epsilon == found.per_client[2] and found.accountant.startswith("analytic Gaussian")


def test_restarts_make_later_rounds_cost_the_first_ones_nothing() -> None:
    """Once in each of two trees of 4, in its first round: 3 nodes each, μ² = 6/25."""
    defense = DPFTRL(noise_multiplier=5.0, restart=4)
    found = defense.guarantee(ledger_of(defense, {0: [1, 5], 1: [8]}))
    assert found is not None
    assert found.per_client[0] == pytest.approx(gaussian_epsilon(6**0.5 / 5.0, 1e-5), abs=1e-8)


@pytest.mark.parametrize("restart", [None, 4, 6])
@pytest.mark.parametrize("most", [None, 1, 3])
def test_a_target_holds_whenever_a_user_takes_part(restart: int | None, most: int | None) -> None:
    """The worst that there is: the first rounds of the tree, all in a row, or as the restarts make it."""
    defense = DPFTRL(epsilon=3.0, restart=restart)
    worst = 0.0
    for start in range(1, 17):
        mine = list(range(start, min(start + (most or 16), 17)))
        rounds = {0: mine, 1: [16]}
        found = defense.guarantee(ledger_of(defense, rounds, participations=most))
        assert found is not None and found.epsilon is not None and found.epsilon <= 3.0
        worst = max(worst, found.epsilon)
    assert worst == pytest.approx(3.0, abs=1e-3)


def test_no_noise_no_guarantee_and_nobody_nothing_to_prove() -> None:
    defense = DPFTRL(noise_multiplier=0.0)
    found = defense.guarantee(ledger_of(defense, {0: [1]}))
    assert found is not None and found.epsilon is None and defense.guarantee(Ledger()) is None


def test_it_wraps_means_and_plans_with_the_cohort() -> None:
    made = DPFTRL(noise_multiplier=2.0, restart=3).aggregator(as_aggregator(mean), federation(seed=9))
    assert isinstance(made, TreeMean) and (made.cohort, made.seed, made.restart) == (4, 9, 3)
    for settings in ({"noise_multiplier": 1.0, "restart": 0}, {"epsilon": -1.0}, {}):
        with pytest.raises(UsageError):
            DPFTRL(**settings)
