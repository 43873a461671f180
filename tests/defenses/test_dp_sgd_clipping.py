"""How DP-SGD clips: each way equal to Opacus' optimizer on the same noise, alone and in a cohort."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.private_gradients import NOISE
from fedlab_defenses.privacy.thresholds import COUNT, LIMIT, Adaptive, Flat, PerLayer
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import AdaClipDPOptimizer, DPOptimizer, DPPerLayerOptimizer
from torch import Tensor, nn

from fedlab import seeds
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules.momentum import FedAvgMVR
from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy

SEED, RECORDS, RATE = 3, 20, 0.3
POISSON = ClientConfig(batch_size=5, local_steps=3, learning_rate=RATE, sampling="poisson")
FULL = replace(POISSON, batch_size=0)
SIGMA, CLIP, LAYERS = 0.7, 0.4, 4
KINDS = ("flat", "per-layer", "adaptive")


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def training_with(
    data: Dataset, config: ClientConfig, stacked: bool = True, net: nn.Module | None = None, **chosen: Any
) -> LocalTraining:
    rule = DPSGD(**chosen).local_rule(LocalRule(), Federation((RECORDS,) * 4, 10, config))
    model = FunctionalModel(net or plain_mlp(), data.shape)
    return LocalTraining(model, cross_entropy, data, rule, config, SEED, stacked=stacked)


def jobs_of(
    training: LocalTraining, state: State, round: int = 4, memories: list[State] | None = None
) -> list[ClientJob]:
    return [
        ClientJob(
            client,
            round,
            state,
            memories[client] if memories else {},
            np.arange(client * RECORDS, (client + 1) * RECORDS),
            plan_batches(RECORDS, training.config, SEED, round, client),
        )
        for client in range(4)
    ]


class Peer:
    """One client's training by an optimizer of Opacus, on the noise that ours draws."""

    def __init__(self, kind: str, state: State, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.net = GradSampleModule(plain_mlp(), loss_reduction="sum")
        self.net._module.load_state_dict(state)
        sgd = torch.optim.SGD(self.net.parameters(), lr=RATE)
        common: dict[str, Any] = {"noise_multiplier": SIGMA, "expected_batch_size": batch}
        if kind == "flat":
            self.optimizer = DPOptimizer(sgd, max_grad_norm=CLIP, **common)
        elif kind == "per-layer":
            each = [CLIP / math.sqrt(LAYERS)] * LAYERS
            self.optimizer = DPPerLayerOptimizer(sgd, max_grad_norm=each, **common)
        else:
            self.optimizer = AdaClipDPOptimizer(
                sgd,
                max_grad_norm=CLIP,
                target_unclipped_quantile=0.5,
                clipbound_learning_rate=0.2,
                max_clipbound=CLIP * 1e6,
                min_clipbound=CLIP * 1e-6,
                unclipped_num_std=max(batch / 20, SIGMA),
                **common,
            )
        self.noise: list[Tensor] = []

        def given(*, std: float, reference: Tensor, **_: object) -> Tensor:
            return self.noise.pop(0) * std

        monkeypatch.setattr("opacus.optimizers.optimizer._generate_noise", given)
        monkeypatch.setattr("opacus.optimizers.adaclipoptimizer._generate_noise", given)

    def round(self, data: Dataset, training: LocalTraining, job: ClientJob) -> State:
        names = [n for n, _ in self.net._module.named_parameters()]
        for step, picks in enumerate(job.plan):
            generator = seeds.torch_generator(SEED, "rule", job.round, job.client, step)
            draws = training.rule.draws(training.model.parameters_of(job.state), generator)
            self.noise = [draws[f"{NOISE}{n}"] for n in names] + [v for n, v in draws.items() if n == COUNT]
            ids = job.records[picks]
            self.optimizer.zero_grad()
            outputs = self.net(data.images(ids))
            nn.functional.cross_entropy(outputs, data.labels(ids), reduction="sum").backward()
            self.optimizer.step()
            assert not self.noise
        return {name: value.clone() for name, value in self.net._module.state_dict().items()}


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(("kind", "config"), [("flat", POISSON), ("per-layer", POISSON), ("adaptive", FULL)])
def test_two_rounds_equal_opacus_on_the_same_noise(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch, kind: str, config: ClientConfig, stacked: bool
) -> None:
    """Client 2 of four, or alone; the model goes on from what each side made, and so does a learned norm.

    Adaptive on full batches: only there does Opacus divide the count by the expected number.
    """
    training = training_with(
        small_data, config, stacked, noise_multiplier=SIGMA, max_grad_norm=CLIP, clipping=kind
    )
    start = training.model.state()
    peer = Peer(kind, start, config.batch_size or RECORDS, monkeypatch)
    state, memory = start, {}
    for round in (1, 2):
        jobs = jobs_of(training, state, round, [{}, {}, memory, {}] if memory else None)
        mine = training(jobs)[2] if stacked else training([jobs[2]])[0]
        theirs = peer.round(small_data, training, replace(jobs[2], state=state))
        state, memory = mine.state, mine.memory
        for name, value in theirs.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
        if kind == "adaptive":
            assert set(memory) == {LIMIT}
            torch.testing.assert_close(
                memory[LIMIT], torch.as_tensor(peer.optimizer.max_grad_norm).float().reshape(())
            )
            assert float(memory[LIMIT]) != pytest.approx(CLIP, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_and_with_a_norm_that_clips_nothing_it_is_plain_training(
    small_data: Dataset, kind: str
) -> None:
    """σ = 0, C = 1e6; an adaptive norm falls, in four steps, by e^-0.4 at most."""
    private = training_with(small_data, FULL, noise_multiplier=0.0, max_grad_norm=1e6, clipping=kind)
    plain = LocalTraining(private.model, cross_entropy, small_data, LocalRule(), FULL, SEED)
    jobs = jobs_of(private, private.model.state())
    for a, b in zip(private(jobs), plain(jobs), strict=True):
        for name in a.state:
            torch.testing.assert_close(a.state[name], b.state[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stacked_client_is_the_client_alone(small_data: Dataset, kind: str) -> None:
    """Poisson batches of unequal size, and what is remembered."""
    chosen = {"noise_multiplier": SIGMA, "max_grad_norm": CLIP, "clipping": kind}
    together = training_with(small_data, POISSON, **chosen)
    alone = training_with(small_data, POISSON, stacked=False, **chosen)
    jobs = jobs_of(together, together.model.state())
    for job, one in zip(jobs, together(jobs), strict=True):
        other = alone([job])[0]
        for name in one.state:
            torch.testing.assert_close(one.state[name], other.state[name], rtol=1e-4, atol=1e-6)
        assert one.memory.keys() == other.memory.keys()
        for name in one.memory:
            torch.testing.assert_close(one.memory[name], other.memory[name])


@pytest.mark.parametrize("kind", KINDS)
def test_one_record_moves_a_step_by_at_most_the_norm(small_data: Dataset, kind: str) -> None:
    """Without one record the update is lr/B times at most C away, also layer by layer."""
    config = replace(POISSON, local_steps=1)
    training = training_with(small_data, config, noise_multiplier=1.0, max_grad_norm=0.1, clipping=kind)
    state = training.model.state()
    full = ClientJob(0, 4, state, {}, np.arange(20), [np.arange(6)])
    base = training([full, full])[0].state
    for record in range(6):
        without = replace(full, plan=[np.delete(np.arange(6), record)])
        other = training([without, without])[0].state
        apart = torch.cat([(base[n] - other[n]).flatten() for n in base]).norm()
        assert 0.0 < float(apart) <= RATE / 5 * 0.1 * (1 + 1e-4)


class Brittle(nn.Module):
    """Divides by what a pixel lacks of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        logits: Tensor = self.head(flat / (1.0 - flat[:, :1]))
        return logits


def test_a_record_whose_gradient_is_not_finite_counts_as_zero(small_data: Dataset) -> None:
    """The loss of record 3 is NaN; the update is that of the others."""
    x = small_data.x.copy()
    x[3, 0, 0, 0] = 1.0
    data = replace(small_data, x=x)
    config = replace(POISSON, local_steps=1)
    training = training_with(data, config, net=Brittle(), noise_multiplier=1.0, max_grad_norm=0.1)
    made = []
    for plan in (np.arange(6), np.delete(np.arange(6), 3)):
        job = ClientJob(0, 4, training.model.state(), {}, np.arange(20), [plan])
        made.append(training([job, job])[0].state)
    for name, value in made[0].items():
        assert bool(torch.isfinite(value).all())
        torch.testing.assert_close(value, made[1][name])


@given(
    scale=st.floats(0.01, 100.0), limit=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32), each=st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_clipped_gradients_are_no_longer_than_the_norm(
    scale: float, limit: float, seed: int, each: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = {n: scale * torch.randn(7, 5, generator=generator, dtype=torch.float64) for n in "abc"}
    squares = {name: g.square().sum(1) for name, g in gradients.items()}
    factors = (PerLayer if each else Flat)(limit).factors(squares, limit)
    clipped = torch.cat([factors[n][:, None] * g for n, g in gradients.items()], dim=1).norm(dim=1)
    assert bool((clipped <= limit * (1 + 1e-9)).all())
    whole = torch.cat(list(gradients.values()), dim=1).norm(dim=1)
    if not each:
        assert torch.equal(clipped >= limit * (1 - 1e-9), whole >= limit * (1 - 1e-9))


@pytest.mark.parametrize("start", [0.1, 1.0, 5.0])
def test_an_adaptive_norm_finds_the_quantile(start: float) -> None:
    """Norms spread evenly over (0, 2): γ = 0.3 of them are below 0.6. With η = 0.2 and σ_b / B = 0.05, the
    stationary spread of log C is about η σ_b/B / sqrt(2 η γ) = 0.03; 0.15 is five of them."""
    clip = Adaptive(start, 0.3, 0.2, 5.0, (1e-6, 1e6))
    generator = torch.Generator().manual_seed(1)
    memory = clip.memory()
    for _ in range(150):
        norms = 2.0 * torch.rand(100, generator=generator)
        factors = clip.factors({"w": norms.square()}, clip.bound(memory))
        batch: Any = type("Step", (), {})()
        batch.rows, batch.size = torch.ones(100), torch.tensor(100.0)
        batch.draws = clip.draws(lambda shape: torch.randn(shape, generator=generator))
        memory = clip.moved(memory, factors, batch)
    assert abs(math.log(float(memory[LIMIT]) / 0.6)) < 0.15


@given(sigma=st.floats(0.05, 20.0), more=st.floats(1.01, 10.0))
def test_gradients_and_counts_together_cost_what_a_step_is_accounted_with(sigma: float, more: float) -> None:
    """Two Gaussians on one sample: μ² = 1 / σ_Δ² (gradients over C) + (1/2)² / σ_b² (counts of halves)."""
    clip = Adaptive(1.0, 0.5, 0.2, sigma / 2 * more, (1e-6, 1e6))
    squared = clip.multiplier(sigma) ** -2 + 0.25 / clip.count_noise**2
    assert math.isclose(squared, sigma**-2, rel_tol=1e-9) and clip.multiplier(sigma) > sigma


def test_the_count_moves_by_one_half_with_one_record_however_many_there_are() -> None:
    """Opacus' count of ones over the records at hand moves by more: its share goes from 1/1 to 0/0."""
    clip = Adaptive(1.0, 0.5, 1.0, 1.0, (1e-6, 1e6))

    def share(norms: list[float]) -> float:
        batch: Any = type("Step", (), {})()
        batch.rows, batch.size = torch.ones(len(norms)), torch.tensor(10.0)
        batch.draws = {COUNT: torch.tensor(0.0)}
        factors = clip.factors({"w": torch.tensor(norms).square()}, 1.0)
        return 0.5 - math.log(float(clip.moved(clip.memory(), factors, batch)[LIMIT]))

    assert share([]) == pytest.approx(0.5)
    for norms in ([0.5], [2.0], [0.5, 0.5, 3.0]):
        assert abs(share(norms) - share(norms[1:])) == pytest.approx(0.5 / 10)


def test_adaptive_clipping_leaves_room_for_another_rule_and_its_memory(small_data: Dataset) -> None:
    """A rule that remembers a momentum keeps it, beside the learned norm."""
    inner = FedAvgMVR(beta=1.0)
    rule = DPSGD(noise_multiplier=1.0, clipping="adaptive").local_rule(
        inner, Federation((RECORDS,) * 4, 10, POISSON)
    )
    model = FunctionalModel(plain_mlp(), small_data.shape)
    parameters = model.parameters_of(model.state())
    assert rule.memory(parameters).keys() == inner.memory(parameters).keys() | {LIMIT}


def test_the_guarantee_says_how_gradients_were_clipped() -> None:
    defense = DPSGD(noise_multiplier=1.0, clipping="adaptive", quantile=0.7, max_grad_norm=2.0)
    defense.local_rule(LocalRule(), Federation((1000,), 1, ClientConfig(batch_size=100)))
    told = defense.guarantee(Ledger([Event(0, 1, 1.0, 0.1, 1)]))
    assert told is not None
    assert "to the 0.7 quantile of norms, learned from 2 on by counts with noise of 5" in told.mechanism


def test_counts_that_alone_spend_everything_are_refused() -> None:
    defense = DPSGD(noise_multiplier=2.0, clipping="adaptive", count_noise=1.0)
    with pytest.raises(UsageError, match=r"count_noise = 1; expected more than half .*raise it"):
        defense.local_rule(LocalRule(), Federation((1000,), 1, ClientConfig(batch_size=100)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clipping": "ghost"},
        {"quantile": 1.0},
        {"quantile": math.nan},
        {"clip_rate": 0.0},
        {"count_noise": -1.0},
        {"count_noise": math.inf},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"dp-sgd {next(iter(wrong))}"):
        DPSGD(**({"noise_multiplier": 1.0, "clipping": "adaptive"} | wrong))
