"""What each attack sends, in numbers that can be checked by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedlab.adversaries import Adversary
from fedlab.adversaries.collusion import (
    InnerProduct,
    LittleIsEnough,
    Mimic,
    MinMax,
    largest_step,
    largest_z,
)
from fedlab.adversaries.contract import crafted
from fedlab.adversaries.replacement import ModelReplacement
from fedlab.adversaries.updates import Gaussian, SignFlip
from fedlab.errors import PluginError, UsageError
from fedlab.strategies.aggregators import weighted_mean
from tests.adversaries.scenes import scene, vectors

HONEST = [[1.0, 0.0], [3.0, 4.0]]
"""Mean (2, 2), standard deviation (1, 2) with divisor 2."""


def same(found: Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(found, vectors(expected), rtol=1e-12, atol=1e-12)


def test_an_adversary_that_overrides_nothing_is_honest() -> None:
    here = scene([[5.0, 6.0]], HONEST)
    assert torch.equal(Adversary().craft(here), here.own)


def test_sign_flip_reverses_each_attackers_own_update() -> None:
    assert same(SignFlip(scale=10.0).craft(scene([[1.0, -2.0], [0.5, 0.0]], HONEST)), [[-10, 20], [-5, 0]])


def test_gaussian_updates_have_the_standard_deviation_asked_for_and_differ() -> None:
    """The mean of 40 000 squares of N(0, 3²) is 9 ± 9 √(2/40 000) = 9 ± 0.064: five of those are 0.32."""
    sent = Gaussian(std=3.0).craft(scene([[0.0] * 20_000] * 2, []))
    assert abs(float((sent**2).mean()) - 9.0) < 0.32
    assert not torch.equal(sent[0], sent[1])
    assert torch.equal(sent, Gaussian(std=3.0).craft(scene([[0.0] * 20_000] * 2, [])))


def test_the_inner_product_attack_sends_the_honest_mean_reversed() -> None:
    """−0.5 (2, 2) = (−1, −1), from each; whatever the attackers trained does not matter."""
    assert same(InnerProduct(epsilon=0.5).craft(scene([[9.0, 9.0]] * 2, HONEST)), [[-1, -1], [-1, -1]])


def test_a_little_is_enough_shifts_the_mean_by_z_standard_deviations() -> None:
    """(2, 2) + 1.5 (1, 2) = (3.5, 5)."""
    assert same(LittleIsEnough(z=1.5).craft(scene([[9.0, 9.0]], HONEST)), [[3.5, 5.0]])


def test_z_max_is_the_papers() -> None:
    """n = 50, m = 24: s = 26 − 24 = 2, Φ⁻¹(24/26) = 1.4261. n = 20, m = 4: s = 7, Φ⁻¹(9/16) = 0.1573."""
    assert largest_z(24, 26) == pytest.approx(1.42608, abs=1e-5)
    assert largest_z(4, 16) == pytest.approx(0.15731, abs=1e-5)


@pytest.mark.parametrize("attackers, honest", [(4, 16), (24, 26), (7, 14), (6, 9)])
def test_z_max_leaves_the_needed_honest_clients_beyond_it(attackers: int, honest: int) -> None:
    """A share s/h of a normal distribution lies above z_max, and with the attackers they are a majority."""
    needed = honest * (1 - 0.5 * (1 + math.erf(largest_z(attackers, honest) / math.sqrt(2))))
    assert needed == pytest.approx((attackers + honest) // 2 + 1 - attackers)


def test_z_is_never_negative_nor_infinite() -> None:
    """n = 20, m = 1 gives Φ⁻¹(9/19) < 0; attackers who are the majority need one honest client."""
    assert largest_z(1, 19) == 0.0
    assert largest_z(5, 1) == 0.0 and largest_z(5, 0) == 0.0
    assert largest_z(9, 4) == pytest.approx(0.6744898, abs=1e-6)  # Φ⁻¹(3/4)


def test_min_max_goes_as_far_as_the_honest_are_apart() -> None:
    """Honest 0 and 4 on a line: D = 4, μ = 2, σ = 2. |2 + 2γ − 0| <= 4 gives γ = 1: the attackers send 4."""
    assert same(MinMax().craft(scene([[0.0]], [[0.0], [4.0]])), [[4.0]])
    assert same(MinMax(direction="unit").craft(scene([[0.0]], [[0.0], [4.0]])), [[0.0]])
    assert same(MinMax(direction="sign").craft(scene([[0.0]], [[0.0], [4.0]])), [[0.0]])


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 10_000))
def test_min_maxs_step_is_the_largest_that_brute_force_finds(count: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(count, width, generator=generator, dtype=torch.float64)
    push = torch.randn(width, generator=generator, dtype=torch.float64)
    diameter = max(float((a - b).norm()) for a, b in itertools.combinations(honest, 2))

    def farthest(step: float) -> float:
        return max(float((honest.mean(0) + step * push - one).norm()) for one in honest)

    step = largest_step(honest, push)
    assert farthest(step) <= diameter * (1 + 1e-9)
    assert farthest(step + 1e-3) > diameter


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
def test_min_max_has_nowhere_to_go_where_all_agree(direction: str) -> None:
    """D = 0 leaves only the mean; so does a single honest update, and an update of zeros."""
    for honest in ([[1.0, 2.0]] * 3, [[1.0, 2.0]], [[0.0, 0.0]] * 2):
        sent = MinMax(direction=direction).craft(scene([[9.0, 9.0]], honest))  # type: ignore[arg-type]
        assert torch.allclose(sent, vectors(honest[:1]))


def test_mimic_copies_one_honest_client() -> None:
    here = scene([[9.0, 9.0]] * 2, HONEST, honest_clients=[5, 8])
    assert same(Mimic().craft(here), [HONEST[0]] * 2)
    assert same(Mimic(client=8).craft(here), [HONEST[1]] * 2)
    assert same(Mimic(client=7).craft(here), [HONEST[0]] * 2)  # it is not there


def test_a_replaced_model_is_what_the_mean_becomes() -> None:
    """Attackers of 1 and 3 records trained (4, 0) and (0, 8), others of 2 and 4 records send what cancels.

    Σ n_i Δ_i / Σ n_i with γ = 10/4 is (1·2.5·(4, 0) + 3·2.5·(0, 8) + 0)/10 = (1, 6): the attackers' own mean.
    """
    honest = [[2.0, -2.0], [-1.0, 1.0]]
    here = scene([[4.0, 0.0], [0.0, 8.0]], honest, weights=[1.0, 3.0], honest_weights=[2.0, 4.0])
    sent = ModelReplacement().craft(here)
    assert same(sent, [[10.0, 0.0], [0.0, 20.0]])
    all_weights = torch.cat([here.weights, here.honest_weights])
    mean = weighted_mean(torch.cat([sent, here.honest]), all_weights)
    assert same(mean[None], [[1.0, 6.0]])
    assert same(ModelReplacement(scale=3.0).craft(here), [[12.0, 0.0], [0.0, 24.0]])


@pytest.mark.parametrize("attack", [InnerProduct(epsilon=1.0), LittleIsEnough(), MinMax(), Mimic()])
def test_without_honest_updates_attackers_go_by_their_own(attack: Adversary) -> None:
    alone, watched = scene(HONEST, []), scene(HONEST, HONEST)
    if isinstance(attack, LittleIsEnough):
        assert same(attack.craft(alone), [[2.0, 2.0]] * 2)  # nobody to convince: z = 0
    else:
        assert torch.equal(attack.craft(alone), attack.craft(watched))


@given(st.permutations([[1.0, 0.0], [3.0, 4.0], [-2.0, 5.0], [0.5, 0.5]]))
def test_the_order_of_the_honest_does_not_matter(honest: list[list[float]]) -> None:
    for attack in (InnerProduct(), LittleIsEnough(z=1.0), MinMax(direction="unit")):
        sent, sorted_sent = (
            attack.craft(scene([[0.0, 0.0]], honest)),
            attack.craft(scene([[0.0, 0.0]], sorted(honest))),
        )
        assert torch.allclose(sent, sorted_sent, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SignFlip(scale=0.0),
        lambda: Gaussian(std=math.nan),
        lambda: InnerProduct(epsilon=-1.0),
        lambda: LittleIsEnough(z=math.inf),
        lambda: MinMax(direction="up"),
        lambda: Mimic(client=-1),
        lambda: ModelReplacement(scale=0.0),
        lambda: ModelReplacement(share=0.0),
    ],
)
def test_what_is_out_of_range_is_refused(make: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()  # type: ignore[operator]


class Wrong(Adversary):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def craft(self, scene: object) -> Tensor:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize("answer", [torch.zeros(2, 2), torch.tensor([[math.nan, 0.0]]), [[0.0, 0.0]]])
def test_a_plugin_that_crafts_nonsense_is_named(answer: object) -> None:
    with pytest.raises(PluginError, match="the adversary Wrong crafted"):
        crafted(Wrong(answer), scene([[0.0, 0.0]], HONEST))
