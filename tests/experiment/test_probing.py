"""The mechanism check and the one-run audit on fedlab's own code, right and with faults planted in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_ftrl import DPFTRL
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.local_dp import LocalDP
from fedlab_defenses.privacy.user_dp import UserDP

from benchmarks.defenses.planted_bugs import BUGS, correct, network
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules.fedprox import FedProx
from fedlab.errors import UsageError
from fedlab.experiment.canaries import Audit, Canaries, Round, audited
from fedlab.experiment.probing import Step, noisy, of_aggregator, of_plan
from fedlab.privacy.mechanism import Check, Release, Sampling, check
from fedlab.strategies.aggregators import FunctionAggregator, mean
from fedlab.tasks import Dataset, Task

SIGMA, RECORDS, BATCH = 1.2, 20, 5
CONFIG = ClientConfig(batch_size=BATCH, local_steps=2, momentum=0.9, learning_rate=0.3, sampling="poisson")
FEW = 2_000


def federation(**changes: Any) -> Federation:
    return Federation((RECORDS,) * 4, 3, CONFIG, cohort=4, **changes)


def tried(releases: list[Release], samplings: list[Sampling], reaches: list[Release] = []) -> list[Check]:  # noqa: B006
    return check(releases, samplings, reaches, generator=np.random.default_rng(1), numbers=FEW)


def failed(checks: list[Check]) -> list[str]:
    return [one.name for one in checks if one.verdict == "failed"]


@pytest.mark.parametrize(
    ("defense", "secure"),
    [
        (DPSGD(noise_multiplier=SIGMA, max_grad_norm=0.4), True),
        (DPSGD(noise_multiplier=SIGMA, clipping="per-layer"), False),
        (DPSGD(noise_multiplier=SIGMA, clipping="adaptive", count_noise=0.8), False),
    ],
)
def test_dp_sgd_does_what_it_is_accounted_for(small_data: Dataset, defense: DPSGD, secure: bool) -> None:
    """Around a local rule with a term of its own and with momentum, which are none of the mechanism's."""
    found = noisy(defense.local_rule(FedProx(mu=0.1), federation(secure=secure)))
    assert found is not None
    model = network()
    task = Task(
        small_data, small_data, lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    )
    step = Step(*found, model, CONFIG, RECORDS, SIGMA, BATCH / RECORDS, seed=5)
    own = Step(*found, task.model(0), CONFIG, RECORDS, SIGMA, BATCH / RECORDS, seed=5)
    plan = of_plan(RECORDS, CONFIG, BATCH / RECORDS, 5, 2)
    reaches = [own.of_records(task)] if defense.clipping == "flat" else []
    checks = tried([step.of_gradients()], [plan], reaches)
    assert len(checks) == 9 + len(reaches) and not failed(checks)


def test_local_dp_does_what_it_is_accounted_for() -> None:
    """Its σ is over 2C, the distance of two updates."""
    found = noisy(LocalDP(noise_multiplier=0.6, clip=0.3).local_rule(LocalRule(), federation()))
    assert found is not None
    checks = tried([Step(*found, network(), CONFIG, RECORDS, 0.6, 1.0, seed=5).of_gradients()], [])
    assert len(checks) == 5 and not failed(checks)


@pytest.mark.parametrize("defense", [UserDP(noise_multiplier=SIGMA), DPFTRL(noise_multiplier=SIGMA)])
def test_noise_at_the_server_is_what_it_is_accounted_for(defense: Defense) -> None:
    made = of_aggregator(defense, FunctionAggregator(mean), federation(), 500, SIGMA, 1)
    assert made is not None and not failed(tried([made], []))
    louder = of_aggregator(defense, FunctionAggregator(mean), federation(), 500, 2 * SIGMA, 1)
    assert louder is not None and failed(tried([louder], [])) == ["noise", "noise shape"]


def test_what_adds_no_noise_claims_nothing() -> None:
    assert noisy(FedProx(mu=0.1)) is None
    assert of_aggregator(Defense(), FunctionAggregator(mean), federation(), 5, 1.0, 1) is None


WHERE = {
    "none": [],
    "noise halved": ["noise", "noise shape"],
    "noise used again": ["noise", "noise shape"],
    "clipped after averaging": ["sensitivity", "denominator"],
    "fixed batches accounted as Poisson": ["batch sizes"],
    "Opacus' expected batch size": ["noise", "denominator"],
    "realised batch size": ["noise", "noise shape", "denominator"],
}


@pytest.mark.parametrize("bug", WHERE)
def test_planted_faults_are_seen_where_they_are(bug: str) -> None:
    plain = correct(SIGMA, 10, 4)
    one = BUGS[bug](plain)
    samplings = [one.sampling(3)] if one.rate == plain.rate else []
    assert set(WHERE[bug]) <= set(failed(tried([one.release(3)], samplings)))
    assert bug != "none" or not failed(tried([one.release(3)], samplings))


def bound(make: Callable[[], Any], sigma: float, canaries: int = 200, seed: int = 1) -> Any:
    one = make()
    return audited(
        Audit(
            one.rule,
            network(10 if canaries <= 600 else 1),
            one.config,
            [Round(number, sigma, one.rate, 2) for number in (1, 2, 3)],
            canaries=canaries,
            guesses=canaries // 4,
            delta=1e-5,
            confidence=0.95,
            seed=seed,
        )
    )


def test_an_audit_of_dp_sgd_bounds_its_epsilon_from_below() -> None:
    """σ = 1.5, six steps on everything: ε = 8.0; none of five bounds comes near it."""
    found = [bound(lambda: correct(1.5, 200, 200), 1.5, seed=seed) for seed in range(5)]
    assert found[0].epsilon == pytest.approx(8.0, abs=0.5)
    assert all(not one.alarm for one in found) and sum(one.epsilon_hat > 0.5 for one in found) >= 4
    assert bound(lambda: correct(1.5, 200, 200), 1.5) == found[1]


def test_an_audit_without_enough_noise_refutes_what_is_claimed() -> None:
    """Noise of a twentieth: ε = 0.8 is claimed, and each of 50 guesses is right."""
    found = bound(lambda: BUGS["noise halved"](correct(1.0, 200, 200)), 10.0)
    assert found.alarm and found.right >= 48 and found.epsilon < 1.5


def test_canaries_share_coordinates_where_there_are_more_of_them() -> None:
    """700 canaries in 65 dimensions: random directions of length one, at the clip each."""
    canaries = Canaries(700, 65, 3)
    rows = canaries.images(np.arange(700))
    norms = rows.norm(dim=1).numpy()
    assert set(np.round(norms / 1e6, 4)) == {0.0, 1.0}
    assert ((norms > 0) == canaries.included).all()
    assert np.argmax(canaries.scores(-rows[7].double() - rows[9].double())) in (7, 9)
    found = bound(lambda: correct(3.0, 700, 700), 3.0, canaries=700)
    assert not found.alarm and found.right > 0.5 * found.guesses


def test_too_many_canaries_are_refused() -> None:
    with pytest.raises(UsageError, match="more canaries than parameters"):
        Canaries(200_000, 1_000, 1)
