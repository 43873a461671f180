"""Local DP: clipped and noised in the client, accounted by the exact formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import dp_event, pld
from fedlab_defenses.privacy.local_dp import NOISE, LocalDP, NoisyUpdate
from scipy.stats import norm
from torch import nn

from fedlab import seeds
from fedlab.audit.stack import Stack
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules.personal import PersonalHead
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from tests.conftest import batch_norm_mlp

CONFIG = ClientConfig(batch_size=5, local_steps=3, learning_rate=0.3)
FEDERATION = Federation((20,) * 4, 10, CONFIG)
SEED = 3


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def trained(data: Dataset, rule: LocalRule, stacked: bool = True) -> tuple[State, list[State]]:
    model = FunctionalModel(network(), data.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {name: 0.1 * torch.randn(value.shape) for name, value in model.state().items()}
    training = LocalTraining(model, cross_entropy, data, rule, CONFIG, SEED, stacked=stacked)
    jobs = [
        ClientJob(c, 4, state, {}, np.arange(20 * c, 20 * c + 20), plan_batches(20, CONFIG, SEED, 4, c))
        for c in range(4)
    ]
    found = training(jobs) if stacked else [training([job])[0] for job in jobs]
    return state, [one.state for one in found]


def flat(state: State, start: State) -> torch.Tensor:
    return torch.cat([(state[name] - start[name]).flatten() for name in start])


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_an_update_is_clipped_as_a_whole_and_gets_the_noise_of_its_own_stream(
    small_data: Dataset, clip: float, stacked: bool
) -> None:
    """clip_C(Δ) + 2 C σ ξ, by hand from the undefended update."""
    rule = LocalDP(noise_multiplier=0.7, clip=clip).local_rule(LocalRule(), FEDERATION)
    start, plain = trained(small_data, LocalRule(), stacked)
    _, noisy = trained(small_data, rule, stacked)
    for client, (before, after) in enumerate(zip(plain, noisy, strict=True)):
        update = flat(before, start)
        draws = rule.ending(start, seeds.torch_generator(SEED, "rule-end", 4, client))
        noise = torch.cat([draws[f"{NOISE}{name}"].flatten() for name in start])
        expected = update * min(1.0, clip / float(update.norm())) + 2.0 * clip * 0.7 * noise
        torch.testing.assert_close(flat(after, start), expected, rtol=1e-4, atol=1e-4 * clip)


def test_without_noise_and_with_a_norm_that_clips_nothing_nothing_changes(small_data: Dataset) -> None:
    rule = LocalDP(noise_multiplier=0.0, clip=1e6).local_rule(LocalRule(), FEDERATION)
    for one, other in zip(trained(small_data, rule)[1], trained(small_data, LocalRule())[1], strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_secure_noise_has_the_right_size_and_never_repeats() -> None:
    """20,000 draws of an update of zero: χ² within 6 standard deviations, once in 10^8 runs beyond."""
    rule = NoisyUpdate(LocalRule(), 0.5, 2.0, secure=True)
    anchor = {"w": torch.zeros(20_000)}
    made = []
    for _ in range(2):
        draws = rule.ending(anchor, torch.Generator())
        work: Any = type("Work", (), {"draws": draws})()
        made.append(rule.finish(anchor, anchor, work, {}).parameters["w"])
    assert not torch.equal(*made)
    assert abs(float((made[0].double() / 2.0).square().sum()) - 20_000) < 6 * (2 * 20_000) ** 0.5


def test_an_update_that_is_not_finite_sends_noise_alone() -> None:
    anchor, wild = {"w": torch.zeros(2)}, {"w": torch.tensor([math.nan, 1.0])}
    work: Any = type("Work", (), {"draws": {f"{NOISE}w": torch.tensor([1.0, -1.0])}})()
    sent = NoisyUpdate(LocalRule(), 0.5, 2.0).finish(anchor, wild, work, {})
    assert sent.parameters["w"].tolist() == [2.0, -2.0]


def test_any_two_updates_lie_within_what_the_noise_is_measured_by() -> None:
    """Opposite and long: 2 C apart, and no more."""
    rule, anchor = NoisyUpdate(LocalRule(), 0.0, 0.3), {"a": torch.zeros(3), "b": torch.zeros(2)}
    work: Any = type("Work", (), {"draws": rule.ending(anchor, torch.Generator())})()
    ends = [
        rule.finish(anchor, {n: sign * 5.0 * torch.ones_like(v) for n, v in anchor.items()}, work, {})
        for sign in (1.0, -1.0)
    ]
    apart = math.dist(*[torch.cat(list(one.parameters.values())).tolist() for one in ends])
    assert apart == pytest.approx(0.6, rel=1e-6)


@pytest.mark.parametrize(("sigma", "rounds"), [(1.0, 1), (2.5, 4), (8.0, 30)])
def test_epsilon_is_that_of_the_analytic_gaussian(sigma: float, rounds: int) -> None:
    """δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) at μ = √rounds / σ; dp-accounting's PLD lies just above."""
    ledger = Ledger([Event(7, round, sigma, 1.0, 1) for round in range(1, rounds + 1)])
    told = LocalDP(noise_multiplier=sigma, delta=1e-5).guarantee(ledger)
    assert told is not None and told.epsilon is not None and told.per_client == {7: told.epsilon}
    mu, epsilon = math.sqrt(rounds) / sigma, told.epsilon
    delta = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(1e-5, rel=1e-5)
    accountant = pld.PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(sigma), rounds))
    assert epsilon <= accountant.get_epsilon(1e-5) + 1e-6 <= epsilon + 1e-2


def test_the_guarantee_is_the_worst_client_and_says_whom_it_protects() -> None:
    events = [Event(0, r, 3.0, 1.0, 1) for r in (1, 2, 3)] + [Event(1, 2, 3.0, 1.0, 1)]
    told = LocalDP(noise_multiplier=3.0).guarantee(Ledger(events, secure=True))
    assert told is not None and told.epsilon == told.per_client[0] > told.per_client[1]
    assert told.participations == {0: 3, 1: 1} and told.unit.startswith("one client")
    assert "replace" in told.adjacency and "operating system" in told.noise
    assert all(one.holds for one in told.assumptions) and told.history == ((3.0, 1.0, 3),)


def test_without_noise_or_without_clients_there_is_no_guarantee() -> None:
    told = LocalDP(noise_multiplier=0.0).guarantee(Ledger([Event(0, 1, 0.0, 1.0, 1)]))
    assert told is not None and told.epsilon is None and "clipping alone" in str(told.reason)
    assert LocalDP(noise_multiplier=1.0).guarantee(Ledger()) is None


@pytest.mark.parametrize("participations", [None, 4])
def test_a_target_is_met_by_a_client_that_is_asked_as_often_as_one_can_be(participations: int | None) -> None:
    defense = LocalDP(epsilon=3.0)
    federation = Federation((20,) * 4, 10, CONFIG, participations=participations)
    sigma = defense.local_rule(LocalRule(), federation).metrics(20, 3, 0.7)["dp-noise-multiplier"]
    most = participations or 10
    told = defense.guarantee(Ledger([Event(0, r, sigma, 1.0, 1) for r in range(most)]))
    assert told is not None and told.epsilon is not None and 3.0 - 1e-4 < told.epsilon <= 3.0


def test_nothing_but_the_noisy_update_is_sent() -> None:
    rule = LocalDP(noise_multiplier=1.5).local_rule(LocalRule(), FEDERATION)
    assert rule.metrics(20, 3, loss=0.7) == {
        "dp-noise-multiplier": 1.5,
        "dp-sample-rate": 1.0,
        "dp-steps": 1,
    }
    assert not rule.shares_buffers


@pytest.mark.parametrize(
    ("inner", "why"),
    [(Scaffold(), "more than that"), (PersonalHead(), "personal")],
)
def test_rules_that_send_more_are_refused(inner: LocalRule, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        LocalDP(noise_multiplier=1.0).local_rule(inner, FEDERATION)


def test_batch_norm_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"local-dp .*batch norm \(2\)"):
        LocalDP(noise_multiplier=1.0).network(batch_norm_mlp)()


def test_in_a_stack_its_ledger_is_its_own(small_data: Dataset) -> None:
    """Beside noise at the server; never with another defense whose noise is the clients'."""
    both = Stack(
        of=[{"name": "local-dp", "noise_multiplier": 2.0}, {"name": "user-dp", "noise_multiplier": 1.0}]
    )
    rule = both.local_rule(LocalRule(), FEDERATION)
    start, noisy = trained(small_data, rule)
    assert all(float(flat(one, start).norm()) > 0 for one in noisy)
    ledger = Ledger([Event(0, 1, 2.0, 1.0, 1), Event(0, 1, 1.0, 1.0, 1, place="server")])
    told = both.guarantee(ledger)
    assert told is not None and told.unit.startswith("one client") and told.history == ((2.0, 1.0, 1),)
    with pytest.raises(UsageError, match="both add noise at the client"):
        Stack(of=[{"name": "local-dp", "noise_multiplier": 1.0}, {"name": "dp-sgd", "noise_multiplier": 1.0}])


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"noise_multiplier": 1.0, "epsilon": 1.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": 1.0, "clip": 0.0},
        {"noise_multiplier": 1.0, "clip": math.nan},
        {"noise_multiplier": 1.0, "delta": 0.0},
        {"epsilon": 0.0},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="local-dp"):
        LocalDP(**wrong)


def test_a_target_out_of_reach_and_a_large_delta() -> None:
    with pytest.raises(UsageError, match=r"epsilon = 1e-09.*larger epsilon or fewer rounds"):
        LocalDP(epsilon=1e-9).local_rule(LocalRule(), FEDERATION)
    assert "not below 1 / 4 (clients)" in LocalDP(epsilon=1.0, delta=0.25).cautions(FEDERATION)[0]
    assert not LocalDP(epsilon=1.0).cautions(FEDERATION)
