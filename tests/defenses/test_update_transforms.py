"""Transforms of the update against numbers by hand, their expectations, and what they must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fedlab_defenses.updates.clipping import Clipping
from fedlab_defenses.updates.gradient_pruning import GradientPruning
from fedlab_defenses.updates.noise import Noise
from fedlab_defenses.updates.qsgd import QSGD
from fedlab_defenses.updates.random_mask import RandomMask
from fedlab_defenses.updates.sign import Sign, signs
from fedlab_defenses.updates.top_k import TopK
from fedlab_defenses.updates.transform import TransformedRule, sparse_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedlab.audit import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Work
from fedlab.clients.rules.personal import PersonalHead
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State

FEDERATION = Federation((10,), 1, ClientConfig())
WORK = Work(torch.ones(()), torch.ones(()), torch.ones(()), torch.zeros(()), {})
EVERY: list[Callable[[], Defense]] = [
    Clipping,
    lambda: Noise(relative=1.0),
    GradientPruning,
    lambda: TopK(share=0.5),
    lambda: RandomMask(share=0.5),
    Sign,
    QSGD,
]
MODEL = FunctionalModel(torch.nn.Linear(2, 2), (2,))


def sent(defense: Defense, before: State, after: State, rule: LocalRule | None = None) -> State:
    """What one client sends, whose rule ends a round at `after`."""
    wrapped = defense.local_rule(rule or LocalRule(), FEDERATION)
    wrapped.personal(before, torch.Generator())
    draws = wrapped.ending(before, torch.Generator().manual_seed(0))
    carry = wrapped.start(before, wrapped.memory(before), {}, WORK)
    return wrapped.finish(before, after, WORK._replace(draws=draws), carry).parameters


def test_clipping_scales_what_is_too_long_and_nothing_else() -> None:
    """(3, 4) has length 5."""
    assert Clipping(clip=1.0).clipped(torch.tensor([3.0, 4.0]), {}).tolist() == pytest.approx([0.6, 0.8])
    assert Clipping(clip=6.0).clipped(torch.tensor([3.0, 4.0]), {}).tolist() == [3.0, 4.0]
    assert Clipping(clip=1.0).clipped(torch.zeros(2), {}).tolist() == [0.0, 0.0]


def test_signs_have_the_mean_magnitude() -> None:
    """|(1, -2, 0, 5)| has mean 2; what did not move has no sign."""
    assert signs(torch.tensor([1.0, -2.0, 0.0, 5.0]), {}).tolist() == [2.0, -2.0, 0.0, 2.0]


def test_qsgd_rounds_to_levels_by_chance() -> None:
    """(3, 4) with norm 5 and s = 5 lies on levels 3 and 4; with s = 2 at 1.2 and 1.6 of 2.5 each."""
    v = torch.tensor([3.0, -4.0])
    high, low = {"chance": torch.full((2,), 0.99)}, {"chance": torch.zeros(2)}
    assert QSGD(levels=5).rounded(v, high).tolist() == pytest.approx([3.0, -4.0])
    assert QSGD(levels=2).rounded(v, high).tolist() == pytest.approx([2.5, -2.5])
    assert QSGD(levels=2).rounded(v, low).tolist() == pytest.approx([5.0, -5.0])
    assert QSGD(levels=2, bucket=1).rounded(v, low).tolist() == pytest.approx([3.0, -4.0])


@pytest.mark.parametrize("make", [lambda: QSGD(levels=2), lambda: RandomMask(share=0.25)])
def test_what_is_rounded_or_masked_is_right_on_average(make: Callable[[], QSGD | RandomMask]) -> None:
    """5 000 draws: a mean within 5 of its own standard errors, which fails by chance once in 10^5 cases."""
    defense, generator = make(), torch.Generator().manual_seed(1)
    rule = defense.local_rule(LocalRule(), FEDERATION)
    assert isinstance(rule, TransformedRule) and rule.draw is not None
    v = torch.tensor([0.3, -1.0, 0.0, 2.0])
    told = torch.stack([rule.change(v, rule.draw(4, generator)) for _ in range(5_000)]).double()
    error = told.std(0) / math.sqrt(len(told))
    assert bool(((told.mean(0) - v).abs() <= 5 * error + 1e-6).all())
    assert bool((told[:, 2] == 0).all())


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_noise_has_the_deviation_that_was_asked_for(distribution: str) -> None:
    """100 000 draws: the variance of Laplace noise is known to 5 σ² sqrt(5 / n) = 3.5 %."""
    size, generator = 100_000, torch.Generator().manual_seed(2)
    fixed = Noise(deviation=0.5, distribution=distribution)  # type: ignore[arg-type]
    told = fixed.noisy(torch.zeros(size), fixed.drawn(size, generator))
    assert float(told.var()) == pytest.approx(0.25, rel=0.035) and abs(float(told.mean())) < 0.008
    kurtosis = float((told / told.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3.0 if distribution == "gaussian" else 6.0, rel=0.15)
    v = torch.full((size,), 2.0)
    relative = Noise(relative=0.5, distribution=distribution)  # type: ignore[arg-type]
    told = relative.noisy(v, relative.drawn(size, generator)) - v
    assert float(told.norm() / v.norm()) == pytest.approx(0.5, rel=0.02)


def test_a_random_mask_keeps_the_share_and_scales_it() -> None:
    v = torch.arange(1.0, 101.0)
    defense = RandomMask(share=0.2)
    told = defense.masked(v, defense.drawn(100, torch.Generator().manual_seed(3)))
    kept = told != 0
    assert int(kept.sum()) == 20
    torch.testing.assert_close(told[kept], 5 * v[kept])
    plain = RandomMask(share=0.2, scaled=False)
    assert torch.equal(plain.masked(v, {"chosen": kept}), v * kept)


def test_top_k_remembers_what_it_did_not_send() -> None:
    """Updates (4, 1, -2), (0, 1.5, 0), (0, 0, 0): first 4 is sent, then 1 + 1.5, then the -2 that is left."""
    rule = TopK(share=0.3).local_rule(LocalRule(), FEDERATION)
    before, memory = {"w": torch.zeros(3)}, rule.memory({"w": torch.zeros(3)})
    told = []
    for moved in ([4.0, 1.0, -2.0], [0.0, 1.5, 0.0], [0.0, 0.0, 0.0]):
        carry = rule.start(before, memory, {}, WORK)
        end = rule.finish(before, {"w": torch.tensor(moved)}, WORK, carry)
        memory = end.memory
        told.append(end.parameters["w"].tolist())
    assert told == [[4.0, 0.0, 0.0], [0.0, 2.5, 0.0], [0.0, 0.0, -2.0]]
    assert memory["top-k/unsent"].tolist() == [0.0, 0.0, 0.0]
    assert TopK(share=0.3, feedback=False).local_rule(LocalRule(), FEDERATION).memory(before) == {}


@given(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=12))
@settings(max_examples=40, deadline=None)
def test_what_a_transform_does_not_change_goes_out_to_the_last_bit(values: list[float]) -> None:
    """Anchors far from 0 round: anchor + (moved - anchor) would not be moved."""
    before = {"a": torch.full((2,), 1e3), "b": torch.linspace(-3, 3, len(values) - 2)}
    moved = {"a": before["a"] + torch.tensor(values[:2]), "b": before["b"] + torch.tensor(values[2:])}
    for defense in (Clipping(clip=1e9), GradientPruning(ratio=0.0), TopK(share=1.0), RandomMask(share=1.0)):
        found = sent(defense, before, moved)
        assert all(torch.equal(found[name], moved[name]) for name in before)
    half = sent(GradientPruning(ratio=0.5), before, moved)
    flat = torch.cat([half[name] - before[name] for name in before])
    whole = torch.cat([moved[name] - before[name] for name in before])
    assert bool(((flat == 0) | (flat == whole)).all())


@pytest.mark.parametrize("make", EVERY)
def test_what_stays_with_the_client_stays_as_it_is(make: Callable[[], Defense]) -> None:
    before = {"base.weight": torch.zeros(1, 4), "head.weight": torch.zeros(1, 1)}
    moved = {"base.weight": torch.tensor([[1.0, 3.0, -2.0, 0.5]]), "head.weight": torch.tensor([[0.25]])}
    assert sent(make(), before, moved, PersonalHead())["head.weight"].tolist() == [[0.25]]


@pytest.mark.parametrize("make", EVERY)
def test_rules_that_send_more_and_the_same_transform_twice_are_refused(make: Callable[[], Defense]) -> None:
    defense = make()
    with pytest.raises(UsageError, match="also sends control, which would tell what was changed"):
        defense.local_rule(Scaffold(), FEDERATION)
    with pytest.raises(UsageError, match="stands twice in one stack"):
        defense.local_rule(defense.local_rule(LocalRule(), FEDERATION), FEDERATION)
    Clipping().local_rule(QSGD().local_rule(LocalRule(), FEDERATION), FEDERATION)


@pytest.mark.parametrize("make", EVERY)
def test_a_stack_of_clients_sends_what_each_would_alone(make: Callable[[], Defense]) -> None:
    rule = make().local_rule(LocalRule(), FEDERATION)
    generator = torch.Generator().manual_seed(4)
    before, moved = (
        {"w": torch.randn(3, 8, generator=generator)},
        {"w": torch.randn(3, 8, generator=generator)},
    )
    drawn = [rule.ending({"w": before["w"][0]}, generator) for _ in range(3)]
    draws = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    memory = {name: torch.stack([value] * 3) for name, value in rule.memory({"w": before["w"][0]}).items()}

    def end(anchor: State, after: State, unsent: State, given: State) -> Tensor:
        work = WORK._replace(draws=given)
        return rule.finish(anchor, after, work, rule.start(anchor, unsent, {}, work)).parameters["w"]

    together = torch.func.vmap(end)(before, moved, memory, draws)
    for i in range(3):
        alone = end(*({n: v[i] for n, v in one.items()} for one in (before, moved, memory, draws)))
        torch.testing.assert_close(together[i], alone)


def test_secure_draws_do_not_come_from_the_generator() -> None:
    secure = Federation((10,), 1, ClientConfig(), secure=True)
    rule = Noise(deviation=1.0).local_rule(LocalRule(), secure)
    one, other = (rule.ending({"w": torch.zeros(8)}, torch.Generator().manual_seed(5)) for _ in range(2))
    assert not torch.equal(one["noise/unit"], other["noise/unit"])


def test_bytes_on_the_wire() -> None:
    """1000 numbers: 4 bytes each as they are; 10 of 1000 with places 80; 500 with a bitmap 2125."""
    assert Clipping().uplink_bytes(1000) == 4000
    assert (
        sparse_bytes(1000, 10) == 80 and sparse_bytes(1000, 500) == 2125 and sparse_bytes(1000, 1000) == 4000
    )
    assert TopK(share=0.01).uplink_bytes(1000) == 80 == GradientPruning(ratio=0.99).uplink_bytes(1000)
    assert RandomMask(share=0.01).uplink_bytes(1000) == 48
    assert Sign().uplink_bytes(1000) == 129
    assert QSGD(levels=7, bucket=500).uplink_bytes(1000) == 1000 * 4 / 8 + 8  # 15 values are 4 bits


def test_what_is_told_of_each() -> None:
    pruned, whole = Disclosure(sent="nonzero"), Disclosure()
    assert GradientPruning().disclosure(MODEL) == TopK().disclosure(MODEL) == pruned
    assert RandomMask().disclosure(MODEL) == pruned and Sign().disclosure(MODEL) == Disclosure(sent="signs")
    assert GradientPruning(ratio=0.0).disclosure(MODEL) == TopK(share=1.0).disclosure(MODEL) == whole
    assert Clipping().disclosure(MODEL) == Noise(relative=1.0).disclosure(MODEL) == whole


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Clipping(clip=0.0), "clipping clip = 0.0; expected a finite number above 0"),
        (lambda: Clipping(clip=math.nan), "clip = nan"),
        (lambda: Noise(), "expected exactly one of the two"),
        (lambda: Noise(deviation=1.0, relative=1.0), "expected exactly one of the two"),
        (lambda: Noise(deviation=-1.0), "noise deviation = -1.0; expected a finite number above 0"),
        (lambda: Noise(relative=1.0, distribution="cauchy"), 'expected "gaussian" or "laplace"'),
        (lambda: TopK(share=0.0), "top-k share = 0.0; expected above 0 and at most 1"),
        (lambda: RandomMask(share=1.5), "random-mask share = 1.5"),
        (lambda: QSGD(levels=0), "qsgd levels = 0; expected at least 1"),
        (lambda: QSGD(bucket=0), "qsgd bucket = 0"),
    ],
)
def test_knobs_out_of_range_are_named(make: Callable[[], Defense], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert told in str(caught.value)
