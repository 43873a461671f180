"""DP-SGD: Opacus' own step on the same noise, noise of the right size, honest accounting."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.private_gradients import NOISE, PrivateRule
from fedlab_defenses.privacy.thresholds import Flat, PerLayer
from opacus import GradSampleModule
from opacus.accountants import PRVAccountant
from opacus.optimizers import DPOptimizer
from torch import nn

from fedlab import seeds
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.errors import UsageError
from fedlab.privacy import Event, Ledger, epsilon_of, prv_epsilon
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy
from tests.conftest import batch_norm_mlp

CONFIG = ClientConfig(batch_size=5, local_steps=3, learning_rate=0.3, sampling="poisson")


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def jobs_for(training: LocalTraining, clients: int, records: int = 20) -> list[ClientJob]:
    state = training.model.state()
    return [
        ClientJob(
            c,
            4,
            state,
            {},
            np.arange(c * records, (c + 1) * records),
            plan_batches(records, training.config, 3, 4, c),
        )
        for c in range(clients)
    ]


def train(
    data: Dataset, defense: DPSGD, config: ClientConfig = CONFIG
) -> tuple[LocalTraining, list[ClientJob]]:
    rule = defense.local_rule(LocalRule(), Federation((20,) * 4, 10, config))
    training = LocalTraining(
        FunctionalModel(plain_mlp(), data.shape), cross_entropy, data, rule, config, seed=3
    )
    return training, jobs_for(training, 4)


@pytest.mark.parametrize(("sigma", "clip"), [(0.0, 0.05), (1.3, 0.4), (0.8, 100.0)])
def test_steps_equal_opacus_on_the_same_noise(
    small_data: Dataset, monkeypatch: pytest.MonkeyPatch, sigma: float, clip: float
) -> None:
    """Three Poisson steps of one client, in a cohort of four, against opacus' DPOptimizer."""
    training, jobs = train(small_data, DPSGD(noise_multiplier=sigma, max_grad_norm=clip))
    ours, job = training(jobs)[2], jobs[2]

    net = GradSampleModule(plain_mlp(), loss_reduction="sum")
    net._module.load_state_dict(job.state)
    optimizer = DPOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.3),
        noise_multiplier=sigma,
        max_grad_norm=clip,
        expected_batch_size=5,
    )
    names = [n for n, _ in net._module.named_parameters()]
    for step, picks in enumerate(job.plan):
        draws = PrivateRule(LocalRule(), sigma, Flat(clip), 5).draws(
            training.model.parameters_of(job.state), seeds.torch_generator(3, "rule", 4, 2, step)
        )
        noise = iter([draws[f"{NOISE}{n}"] * sigma * clip for n in names])
        monkeypatch.setattr("opacus.optimizers.optimizer._generate_noise", lambda **_: next(noise))  # noqa: B023
        ids = job.records[picks]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            net(small_data.images(ids)), small_data.labels(ids), reduction="sum"
        )
        loss.backward()
        optimizer.step()
    for name, value in net._module.state_dict().items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-4, atol=1e-6)


def test_without_noise_and_clipping_it_is_plain_training(small_data: Dataset) -> None:
    """σ = 0, C = 1e6, and full batches (q = 1, so that the expected size is the real one)."""
    config = ClientConfig(batch_size=0, local_steps=2, sampling="poisson")
    private, jobs = train(small_data, DPSGD(noise_multiplier=0.0, max_grad_norm=1e6), config)
    plain = LocalTraining(private.model, cross_entropy, small_data, LocalRule(), config, seed=3)
    for a, b in zip(private(jobs), plain(jobs), strict=True):
        for name in a.state:
            torch.testing.assert_close(a.state[name], b.state[name], rtol=1e-4, atol=1e-6)


def test_one_record_moves_the_sum_by_at_most_the_clipping_norm(small_data: Dataset) -> None:
    """Remove one record from a step: lr/B times at most C apart, for every record."""
    config = ClientConfig(batch_size=5, local_steps=1, learning_rate=0.3, sampling="poisson")
    training, jobs = train(small_data, DPSGD(noise_multiplier=1.0, max_grad_norm=0.1), config)
    job = jobs[0]
    full = ClientJob(0, 4, job.state, {}, job.records, [np.arange(6)])
    base = training([full, full])[0].state
    for record in range(6):
        without = ClientJob(0, 4, job.state, {}, job.records, [np.delete(np.arange(6), record)])
        other = training([without, without])[0].state
        apart = torch.cat([(base[n] - other[n]).flatten() for n in base]).norm()
        assert float(apart) <= 0.3 / 5 * 0.1 * (1 + 1e-4)


def test_an_empty_batch_sends_pure_noise_of_the_right_size(small_data: Dataset) -> None:
    """Update = lr σ C ξ / B with d = 243 coordinates; χ² within 5 standard deviations over 40 clients."""
    config = ClientConfig(batch_size=5, local_steps=1, learning_rate=0.3, sampling="poisson")
    training, jobs = train(small_data, DPSGD(noise_multiplier=2.0, max_grad_norm=0.5), config)
    empty = np.array([], dtype=np.int64)
    results = training([ClientJob(c, 4, jobs[0].state, {}, jobs[0].records, [empty]) for c in range(40)])
    start = jobs[0].state
    noise = torch.stack([torch.cat([(r.state[n] - start[n]).flatten() for n in start]) for r in results])
    squares = (noise.double() / (0.3 * 2.0 * 0.5 / 5)).square().sum()
    count = noise.numel()
    assert count == 40 * 243 and abs(float(squares) - count) < 5 * (2 * count) ** 0.5


def test_a_zero_gradient_has_clip_factor_one(small_data: Dataset) -> None:
    """A network without any gradient: C / 0 counts as factor 1, and nothing becomes NaN."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) * 0.0) @ torch.zeros(16, 3) + self.scale * 0.0

    rule = PrivateRule(LocalRule(), 0.0, Flat(1.0), 5)
    training = LocalTraining(
        FunctionalModel(Constant(), (1, 4, 4)), cross_entropy, small_data, rule, CONFIG, 3
    )
    assert all(torch.equal(r.state["scale"], torch.zeros(1)) for r in training(jobs_for(training, 2)))


def test_the_guarantee_is_the_worst_client_over_all_its_rounds() -> None:
    defense = DPSGD(noise_multiplier=1.0)
    ledger = Ledger(
        [Event(0, r, 1.0, 0.05, 1) for r in range(30)] + [Event(1, r, 1.0, 0.02, 1) for r in range(9)]
    )
    guarantee = defense.guarantee(ledger)
    assert guarantee is not None
    assert (
        guarantee.epsilon == epsilon_of({(1.0, 0.05): 30}, 1e-5).epsilon == max(guarantee.per_client.values())
    )
    assert guarantee.participations == {0: 30, 1: 9}
    assert all(a.holds for a in guarantee.assumptions)


def test_what_a_cohort_reports_is_what_opacus_counts_step_by_step(small_data: Dataset) -> None:
    """Four clients over three rounds of three steps; client 3 misses one. Opacus' accountant is told of every
    step as it happens."""
    training, _ = train(small_data, DPSGD(noise_multiplier=1.1))
    ledger, peers = Ledger(), {client: PRVAccountant() for client in range(4)}
    for round in (1, 2, 3):
        for client, found in enumerate(training(jobs_for(training, 4))):
            if (client, round) == (3, 2):
                continue
            sent = training.rule.metrics(20, found.steps, found.loss)
            sigma, rate = sent["dp-noise-multiplier"], sent["dp-sample-rate"]
            ledger.add(Event(client, round, sigma, rate, int(sent["dp-steps"])))
            for _ in range(3):
                peers[client].step(noise_multiplier=1.1, sample_rate=5 / 20)
    told = DPSGD(noise_multiplier=1.1).guarantee(ledger)
    assert told is not None
    for client, peer in peers.items():
        assert told.per_client[client] == pytest.approx(peer.get_epsilon(1e-5), abs=2e-9)


def test_without_noise_or_without_participation_there_is_no_guarantee() -> None:
    nothing = DPSGD(noise_multiplier=0.0).guarantee(Ledger([Event(0, 1, 0.0, 0.1, 1)]))
    assert nothing is not None and nothing.epsilon is None and "clipping alone" in str(nothing.reason)
    assert DPSGD(noise_multiplier=1.0).guarantee(Ledger()) is None


def test_a_target_epsilon_holds_for_a_client_that_is_asked_in_every_round() -> None:
    config = ClientConfig(batch_size=2, local_steps=1, sampling="poisson")
    rule = DPSGD(epsilon=3.0).local_rule(LocalRule(), Federation((40, 60), 50, config))
    sent = rule.metrics(40, 1, loss=0.7)
    assert sent["dp-sample-rate"] == 2 / 40
    ledger = Ledger([Event(0, r, sent["dp-noise-multiplier"], sent["dp-sample-rate"], 1) for r in range(50)])
    assert 2.9 < prv_epsilon(ledger.steps()[0], 1e-5) <= 3.0


@pytest.mark.parametrize(("sizes", "batch"), [((9, 10), 9), ((32, 33), 32), ((5, 200), 20)])
def test_a_target_epsilon_holds_for_every_client_when_epochs_count_the_steps(
    sizes: tuple[int, ...], batch: int
) -> None:
    """The smallest client has the largest rate, but one record more can double the steps."""
    config = ClientConfig(batch_size=batch, local_epochs=1, sampling="poisson")
    rule = DPSGD(epsilon=3.0).local_rule(LocalRule(), Federation(sizes, 20, config))
    for records in sizes:
        steps = len(plan_batches(records, config, 0, 1, 0))
        sent = rule.metrics(records, steps, loss=0.7)
        spent = epsilon_of(
            {(sent["dp-noise-multiplier"], sent["dp-sample-rate"]): 20 * int(sent["dp-steps"])}, 1e-5
        )
        assert spent.epsilon <= 3.0


class Remembering(nn.Module):
    """Keeps the mean of its last input in a buffer."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x.flatten(1).mean(0)
        logits: torch.Tensor = self.layer(x.flatten(1))
        return logits


def test_nothing_but_noisy_gradients_leaves_the_client(small_data: Dataset) -> None:
    """No loss among the metrics, and buffers stay as the server sent them."""
    rule = DPSGD(noise_multiplier=1.0).local_rule(LocalRule(), Federation((20,) * 2, 10, CONFIG))
    assert set(rule.metrics(20, 3, loss=0.7)) == {"dp-noise-multiplier", "dp-sample-rate", "dp-steps"}
    model = FunctionalModel(Remembering(), (1, 4, 4))
    private = LocalTraining(model, cross_entropy, small_data, rule, CONFIG, 3)
    plain = LocalTraining(model, cross_entropy, small_data, LocalRule(), CONFIG, 3)
    assert all(torch.equal(r.state["seen"], torch.zeros(16)) for r in private(jobs_for(private, 2)))
    assert all(float(r.state["seen"].sum()) > 0 for r in plain(jobs_for(plain, 2)))


def test_batch_norm_is_refused_by_layer_name() -> None:
    with pytest.raises(UsageError, match=r"batch norm \(2\).*norm = \"group\""):
        DPSGD(noise_multiplier=1.0).network(batch_norm_mlp)()


@pytest.mark.parametrize(
    "make",
    [
        lambda: DPSGD(),
        lambda: DPSGD(noise_multiplier=1.0, epsilon=1.0),
        lambda: DPSGD(noise_multiplier=-1.0),
        lambda: DPSGD(noise_multiplier=float("nan")),
        lambda: DPSGD(noise_multiplier=1.0, max_grad_norm=0.0),
        lambda: DPSGD(noise_multiplier=1.0, delta=1.0),
        lambda: DPSGD(epsilon=0.0),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], DPSGD]) -> None:
    with pytest.raises(UsageError, match="dp-sgd"):
        make()


def test_secure_noise_is_of_the_right_size_and_never_repeats(small_data: Dataset) -> None:
    """Empty batches: σ C ξ lr / B in 243 coordinates of 40 clients; χ² within 6 standard deviations. A right
    sampler fails once in 10^8 runs."""
    config = ClientConfig(batch_size=5, local_steps=1, learning_rate=0.3, sampling="poisson")
    federation = Federation((20,) * 4, 10, config, secure=True)
    rule = DPSGD(noise_multiplier=2.0, max_grad_norm=0.5).local_rule(LocalRule(), federation)
    model = FunctionalModel(plain_mlp(), small_data.shape)
    training = LocalTraining(model, cross_entropy, small_data, rule, config, seed=3)
    start, empty = model.state(), np.array([], dtype=np.int64)
    jobs = [ClientJob(c, 4, start, {}, np.arange(20), [empty]) for c in range(40)]
    drawn = [
        torch.stack([torch.cat([(r.state[n] - start[n]).flatten() for n in start]) for r in training(jobs)])
        for _ in range(2)
    ]
    assert not torch.equal(*drawn)
    for noise in drawn:
        squares = (noise.double() / (0.3 * 2.0 * 0.5 / 5)).square().sum()
        assert abs(float(squares) - noise.numel()) < 6 * (2 * noise.numel()) ** 0.5


def test_the_guarantee_says_where_the_noise_came_from() -> None:
    for secure, words in ((False, "protects no real data"), (True, "operating system")):
        told = DPSGD(noise_multiplier=1.0).guarantee(Ledger([Event(0, 1, 1.0, 0.1, 1)], secure=secure))
        assert told is not None and words in told.noise


def test_what_went_amiss_voids_the_guarantee() -> None:
    told = DPSGD(noise_multiplier=1.0).guarantee(Ledger([Event(0, 1, 1.0, 0.1, 1, amiss="no sampling")]))
    assert told is not None and told.epsilon is None and "no sampling" in str(told.reason)


@pytest.mark.parametrize(("delta", "told"), [(0.04, 0), (0.05, 1), (0.2, 1)])
def test_a_delta_that_is_not_below_one_over_the_records_is_told_and_voids_nothing(
    delta: float, told: int
) -> None:
    defense, federation = DPSGD(noise_multiplier=1.0, delta=delta), Federation((20, 90), 10, CONFIG)
    found = defense.cautions(federation)
    assert len(found) == told
    defense.local_rule(LocalRule(), federation)
    guarantee = defense.guarantee(Ledger([Event(0, 1, 1.0, 0.1, 1)]))
    assert guarantee is not None and guarantee.epsilon is not None
    assert list(guarantee.cautions) == list(found)
    if told:
        assert f"delta = {delta:g} is not below 1 / 20" in found[0] and "e.g. 5e-03" in found[0]


def test_an_epsilon_that_no_noise_reaches_is_refused_with_a_remedy() -> None:
    config = ClientConfig(batch_size=0, local_steps=1, sampling="poisson")
    with pytest.raises(UsageError, match=r"cannot be reached in 2 steps.*fewer rounds"):
        DPSGD(epsilon=1e-4).local_rule(LocalRule(), Federation((20,), 2, config))


@pytest.mark.parametrize("clip", [Flat(1.0), PerLayer(1.0)])
def test_a_norm_that_is_no_number_counts_as_nothing(clip: Flat) -> None:
    """Of an outer product with a huge and a zero factor the squared norm is inf times 0."""
    squares = {"w": torch.tensor([torch.nan, torch.inf, 0.0, 4.0])}
    factors = clip.factors(squares, clip.limit)["w"]
    assert factors.tolist() == [0.0, 0.0, 1.0, 0.5]
