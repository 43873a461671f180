"""Distributed DP: what a client adds to a sum, what it costs, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fedlab_defenses.privacy import skellam
from fedlab_defenses.privacy.distributed_dp import DistributedDP
from fedlab_defenses.privacy.lattice import SLACK, OnLattice, SkellamRule
from fedlab_defenses.secure_sum.masked import SecAggPlus
from fedlab_defenses.updates.gradient_pruning import GradientPruning
from fedlab_defenses.updates.top_k import TopK
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Work
from fedlab.errors import PluginError, UsageError
from fedlab.privacy import Ledger, rdp_epsilon
from fedlab.strategies import Updates, as_aggregator
from fedlab.strategies.aggregators import mean, median


def federation(**changes: Any) -> Federation:
    return Federation(
        **{"records": (10,) * 20, "rounds": 10, "config": ClientConfig(), "cohort": 6} | changes
    )


def rule(clip: float, step: float, variance: float = 0.0) -> SkellamRule:
    return SkellamRule(LocalRule(), clip, step, variance, False)


def sent(one: SkellamRule, moved: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """The change that a client sends whose training moved the model (of ones) so."""
    anchor = {name: torch.ones_like(value) for name, value in moved.items()}
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.tensor(0.0)
    work = Work(nothing, nothing, nothing, nothing, {}, one.ending(anchor, generator))
    after = {name: anchor[name] + value for name, value in moved.items()}
    found = one.finish(anchor, after, work, {}).parameters
    return {name: found[name].double() - 1.0 for name in moved}


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 300),
    scale=st.floats(1e-3, 1e3),
    fineness=st.integers(1, 4096),
)
def test_no_user_adds_more_than_the_sensitivity(seed: int, size: int, scale: float, fineness: int) -> None:
    """Whatever it computed, and however coarse the steps: integers, of L2 norm up to 1.005 C / γ, and of L1
    norm up to its square."""
    generator = torch.Generator().manual_seed(seed)
    moved = {
        "a": scale * torch.randn(size, generator=generator).double(),
        "b": torch.full((2,), scale).double(),
    }
    chances = {name: torch.rand(value.shape, generator=generator).double() for name, value in moved.items()}
    whole = rule(1.0, 1.0 / fineness).integers(moved, chances)
    flat = torch.cat([value.flatten() for value in whole.values()])
    assert torch.equal(flat, flat.round())
    norm = float(flat.norm())
    assert norm <= SLACK * fineness * (1 + 1e-12)
    assert float(flat.abs().sum()) <= norm**2 + 1e-9


def test_rounding_is_right_on_average() -> None:
    """0.3 and −1.25 steps, 40,000 times each: within 5 standard errors."""
    moved = {"a": torch.tensor([0.3, -1.25]).double().repeat_interleave(40_000)}
    chances = {"a": torch.rand(80_000, generator=torch.Generator().manual_seed(1)).double()}
    whole = rule(1e9, 1.0).integers(moved, chances)["a"].reshape(2, -1)
    assert set(whole[0].tolist()) == {0.0, 1.0} and set(whole[1].tolist()) == {-2.0, -1.0}
    for mean_of, exact, share in ((whole[0].mean(), 0.3, 0.3), (whole[1].mean(), -1.25, 0.25)):
        assert abs(float(mean_of) - exact) < 5 * math.sqrt(share * (1 - share) / 40_000)


def test_a_small_update_passes_and_a_long_one_is_clipped() -> None:
    """(3, 4) has length 5: clipped to 1 it is (0.6, 0.8); (0.3, 0.4) stays."""
    one = rule(1.0, 2.0**-12)
    for moved, expected in (((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))):
        found = sent(one, {"a": torch.tensor(moved)})["a"]
        torch.testing.assert_close(found, torch.tensor(expected).double(), atol=2.0**-12, rtol=0)


def test_the_noise_of_a_sum_has_the_variance_asked_for() -> None:
    """z = 2, C = 0.5, 4 survivors of 6: from 4 clients (z C)² = 1, from 6 half as much again; 20,000 numbers,
    5 standard errors."""
    defense, size = DistributedDP(noise_multiplier=2.0, clip=0.5), 20_000
    one = defense.local_rule(LocalRule(), federation())
    assert isinstance(one, SkellamRule)
    updates = torch.stack([sent(one, {"a": torch.zeros(size)}, seed)["a"] for seed in range(6)])
    for count, variance in ((4, 1.0), (6, 1.5)):
        total = updates[:count].sum(0)
        assert abs(float(total.var()) / variance - 1) < 5 * math.sqrt(2 / size)


def test_the_server_adds_the_very_integers_up() -> None:
    """Through float32 parameters around 1, in steps of 2^-12: the mean is exactly that of the integers."""
    defense = DistributedDP(noise_multiplier=1.0)
    one = defense.local_rule(LocalRule(), federation())
    combine = defense.aggregator(as_aggregator(mean), federation())
    assert isinstance(one, SkellamRule) and isinstance(combine, OnLattice) and combine.minimum == 4
    deltas = torch.stack([sent(one, {"a": torch.full((50,), 0.01)}, seed)["a"] for seed in range(5)])
    whole = (deltas / defense.step).round()
    found, _ = combine.aggregate(Updates(deltas, torch.ones(5), tuple(range(5))), {})
    assert torch.equal(found, whole.sum(0) * (defense.step / 5))
    with pytest.raises(PluginError, match="off their integers"):
        combine.aggregate(Updates(deltas + 0.4 * defense.step, torch.ones(5), tuple(range(5))), {})


def ledger(defense: DistributedDP, rounds: int, clients: int, **changes: Any) -> Ledger:
    told = federation(**changes)
    events = [event for round in range(rounds) for event in defense.charge(range(clients), round + 1, told)]
    return Ledger(events)


def test_epsilon_is_that_of_the_noise_that_came() -> None:
    """All 6 of a cohort answered, 4 are needed: z sqrt(6 / 4). Gaussian's, but for 0.5 %."""
    defense = DistributedDP(noise_multiplier=2.0)
    found = defense.guarantee(ledger(defense, 10, 6))
    assert found is not None and found.epsilon is not None
    sigma = 2.0 * math.sqrt(1.5)
    by_hand = skellam.epsilon(
        {(sigma / defense.step) ** 2: 10}, defense.sensitivity**2, defense.sensitivity, 1e-5
    )
    assert found.epsilon == pytest.approx(by_hand, rel=1e-9)
    assert found.epsilon == pytest.approx(rdp_epsilon({(sigma / SLACK, 1.0): 10}, 1e-5), rel=0.01)
    assert found.unit.startswith("one user") and "zeros in their place" in found.adjacency
    fewer = defense.guarantee(ledger(defense, 10, 4))
    assert fewer is not None and fewer.epsilon is not None and fewer.epsilon > found.epsilon
    alone = defense.charge([3], 1, federation())  # whoever is asked: of fewer than 4 nothing is opened
    assert [event.noise_multiplier * SLACK for event in alone] == pytest.approx([2.0])


def test_a_target_is_kept_when_no_more_than_needed_answer() -> None:
    defense = DistributedDP(epsilon=4.0)
    found = defense.guarantee(ledger(defense, 10, 4))
    assert found is not None and found.epsilon is not None and 3.99 < found.epsilon <= 4.0
    with pytest.raises(UsageError, match="cannot be reached"):
        DistributedDP(epsilon=1e-4, delta=1e-9).multiplier(federation(rounds=10**6))


def test_nothing_is_claimed_without_noise_or_where_updates_travel_unmasked() -> None:
    silent = DistributedDP(noise_multiplier=0.0)
    found = silent.guarantee(ledger(silent, 2, 6))
    assert found is not None and found.epsilon is None and "without noise" in str(found.reason)
    open_, told = DistributedDP(noise_multiplier=1.0), federation(secure=True)
    open_.aggregator(as_aggregator(mean), told)
    found = open_.guarantee(ledger(open_, 2, 6))
    assert found is not None and found.epsilon is None and "secagg-plus" in str(found.reason)
    gone = ledger(open_, 2, 6)
    gone.turned_away.add(1)
    assert DistributedDP(noise_multiplier=1.0).guarantee(gone).epsilon is None  # type: ignore[union-attr]


def test_under_masks_nothing_is_left_to_add_up_and_epsilon_stands() -> None:
    defense, told = DistributedDP(noise_multiplier=1.0), federation(secure=True)
    under = SecAggPlus().aggregator(defense.aggregator(as_aggregator(mean), told), told)
    assert under.minimum == 4
    found = defense.guarantee(ledger(defense, 2, 6))
    assert found is not None and found.epsilon is not None


@pytest.mark.parametrize(
    ("private", "masks", "match"),
    [
        ({"step": 0.001}, {}, "choose both as powers of two"),
        ({}, {"levels": 2**10}, "choose both as powers of two"),
        ({"noise_multiplier": 2.0, "clip": 4.0}, {}, "would cut noise off"),
        ({"survivors": 5}, {}, "survivors = 5"),
    ],
)
def test_masks_that_would_change_the_integers_are_refused(
    private: dict[str, Any], masks: dict[str, Any], match: str
) -> None:
    defense = DistributedDP(**{"noise_multiplier": 1.0, **private})
    with pytest.raises(UsageError, match=match):
        SecAggPlus(**masks).aggregator(defense.aggregator(as_aggregator(mean), federation()), federation())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "exactly one"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0, "clip": 0.0}, "clip"),
        ({"noise_multiplier": 1.0, "survivors": 0}, "survivors = 0"),
        ({"noise_multiplier": 1.0, "step": 2.0}, "a small part of clip"),
        ({"noise_multiplier": 1.0, "step": float("nan")}, "step"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, "delta"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_is_expected(
    arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        DistributedDP(**arguments)


def test_what_does_not_fit_the_federation_is_refused() -> None:
    defense = DistributedDP(noise_multiplier=1.0, survivors=7)
    with pytest.raises(UsageError, match="survivors = 7, but a sum has 6"):
        defense.local_rule(LocalRule(), federation())
    with pytest.raises(UsageError, match="median"):
        DistributedDP(noise_multiplier=1.0).aggregator(as_aggregator(median), federation())
    assert DistributedDP(noise_multiplier=1.0, survivors=7).needed(federation(cohort=7)) == 7


@pytest.mark.parametrize("behind", [TopK(), GradientPruning()])
def test_nothing_changes_single_updates_behind_the_noise(behind: Any) -> None:
    """Zeros lie on the lattice, but take shares of the noise out of the sum."""
    federation = Federation([8] * 6, 1, ClientConfig(batch_size=4), cohort=6)
    defense = DistributedDP(noise_multiplier=1.0)
    with pytest.raises(UsageError, match="behind distributed-dp"):
        behind.local_rule(defense.local_rule(LocalRule(), federation), federation)
    before = defense.local_rule(behind.local_rule(LocalRule(), federation), federation)
    assert isinstance(before, SkellamRule)
