"""The unrolled client against fedlab's own training loop, by hand, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from fedlab_attacks.optimise.local_training import client, sizes_of, unrolled
from fedlab_attacks.optimise.problem import LocalPlan, Problem
from fedlab_attacks.optimise.variables import Variables
from torch import Tensor, nn

from fedlab import seeds
from fedlab.audit.observation import KnownConfig, Observation
from fedlab.audit.victim import Victim
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy, initialise
from fedlab.tasks.layers import GaussianSample
from tests.attacks.attack_scene import IMAGES, LABELS, mlp

SEED, ROUND, CLIENT = 3, 1, 2


def normed(p: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Dropout(p),
        nn.Linear(16, 10),
    )


def plain() -> nn.Module:
    return mlp(p=0.0, width=24)


def dropped() -> nn.Module:
    return mlp(p=0.5, width=24)


def normed_and_dropped() -> nn.Module:
    return normed(0.5)


def victim_of(network: Callable[[], nn.Module]) -> Victim:
    return Victim(FunctionalModel(initialise(network, 0), (1, 8, 8)), cross_entropy, (1, 8, 8), 10)


def sent(victim: Victim, config: ClientConfig, records: int) -> tuple[State, State, Tensor, State]:
    """What fedlab's client sends: update, buffers, and which records and masks it used, in order."""
    data = Dataset("digits", IMAGES[:64].numpy(), LABELS[:64].numpy(), 10, source="scikit-learn")
    plan = plan_batches(records, config, SEED, ROUND, CLIENT)
    state = victim.model.state()
    training = LocalTraining(victim.model, victim.loss, data, LocalRule(), config, SEED, stacked=False)
    job = ClientJob(CLIENT, ROUND, state, {}, np.arange(records), plan)
    after = {name: value[0] for name, value in training([job]).state.items()}
    masks = [
        victim.model.draw_masks(len(use), seeds.torch_generator(SEED, "dropout", ROUND, CLIENT, step))
        for step, use in enumerate(plan)
    ]
    kept = {n: torch.cat([mask[n] for mask in masks]).float() for n in victim.model.mask_shapes}
    update = {name: after[name] - state[name] for name in victim.model.parameter_names}
    return update, victim.model.buffers_of(after), torch.from_numpy(np.concatenate(plan)), kept


def apart(one: State, other: State) -> float:
    """Distance, relative to the length of the first."""
    if not one:
        return 0.0
    mine, theirs = (torch.cat([state[name].flatten() for name in one]) for state in (one, other))
    return float((mine - theirs).norm() / mine.norm())


@pytest.mark.parametrize(
    ("network", "config", "records"),
    [
        (plain, ClientConfig(batch_size=3, local_epochs=3, momentum=0.9), 8),  # last batches are short
        (plain, ClientConfig(batch_size=4, local_steps=1), 4),
        (plain, ClientConfig(batch_size=2, local_steps=3, weight_decay=0.1, momentum=0.5), 6),
        (dropped, ClientConfig(batch_size=2, local_epochs=2, momentum=0.9, weight_decay=0.01), 4),
        (dropped, ClientConfig(batch_size=2, local_steps=2, mode="eval"), 4),
        (normed, ClientConfig(batch_size=4, local_epochs=2, momentum=0.9), 8),
        (normed, ClientConfig(batch_size=4, local_steps=2, mode="eval"), 8),
        (normed_and_dropped, ClientConfig(batch_size=4, local_steps=4, momentum=0.9, weight_decay=0.1), 8),
    ],
)
def test_equals_fedlabs_client(network: Callable[[], nn.Module], config: ClientConfig, records: int) -> None:
    victim = victim_of(network)
    update, buffers, order, masks = sent(victim, config, records)
    state = victim.model.state()
    training = config.mode == "train"
    plan = plan_of(config, records)
    got, _, after = client(
        victim,
        victim.model.parameters_of(state),
        victim.model.buffers_of(state),
        IMAGES[order],
        LABELS[order],
        masks if training else {},
        plan,
        training=training,
    )
    assert plan.uses == len(order)
    scale = -plan.learning_rate * len(plan.sizes)
    assert apart({name: value / scale for name, value in update.items()}, got) < 1e-4
    assert apart(buffers, after) < 1e-5


def plan_of(config: ClientConfig, records: int) -> LocalPlan:
    steps = config.local_steps or config.local_epochs * -(-records // config.batch_size)
    sizes = sizes_of(records, config.batch_size, steps)
    return LocalPlan(sizes, config.learning_rate, config.momentum, config.weight_decay)


@pytest.mark.parametrize(
    ("records", "batch", "steps", "sizes"),
    [(5, 2, 3, (2, 2, 1)), (5, 2, 4, (2, 2, 1, 2)), (4, 0, 2, (4, 4)), (3, 8, 1, (3,)), (4, 4, 3, (4, 4, 4))],
)
def test_sizes_of_steps(records: int, batch: int, steps: int, sizes: Sequence[int]) -> None:
    assert sizes_of(records, batch, steps) == sizes


def test_two_steps_on_a_line_by_hand() -> None:
    """Loss w x: every gradient is x, so v1 = x1, v2 = m x1 + x2, and the mean step is (v1 + v2) / 2."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    victim = Victim(FunctionalModel(net, (1, 1, 1)), lambda out, _: out[:, 0], (1, 1, 1), 1)
    images, labels = torch.tensor([0.5, 0.25]).view(2, 1, 1, 1), torch.zeros(2).long()
    plan = LocalPlan((1, 1), learning_rate=0.1, momentum=0.9)
    zero, one = {"1.weight": torch.zeros(1, 1)}, {"1.weight": torch.ones(1, 1)}
    update = client(victim, zero, {}, images, labels, {}, plan, training=True).update
    assert float(update["1.weight"]) == pytest.approx((0.5 + 0.9 * 0.5 + 0.25) / 2, rel=1e-6)
    decayed = replace(plan, weight_decay=0.5, momentum=0.0)
    update = client(victim, one, {}, images, labels, {}, decayed, training=True).update
    first = 0.5 + 0.5 * 1.0
    second = 0.25 + 0.5 * (1.0 - 0.1 * first)
    assert float(update["1.weight"]) == pytest.approx((first + second) / 2, rel=1e-6)


def test_derivatives_of_update_and_buffers_agree_with_finite_differences() -> None:
    """Also through the running statistics, which a client's own layers detach."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.5))
    net.append(nn.Linear(3, 2)).double()
    victim = Victim(FunctionalModel(net, (1, 2, 2)), cross_entropy, (1, 2, 2), 2)
    state = victim.model.state()
    parameters, buffers = victim.model.parameters_of(state), victim.model.buffers_of(state)
    plan = LocalPlan((3, 3), learning_rate=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])

    def both(x: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        update, _, after = client(victim, parameters, buffers, x, labels, {"4": kept}, plan, training=True)
        return (*update.values(), *after.values())

    assert torch.autograd.gradcheck(both, (images, mask), atol=1e-6)


class Sampled(nn.Module):
    """64 -> 4 normal draws -> 3."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread, self.head = nn.Linear(64, 4), nn.Linear(64, 4), nn.Linear(4, 3)
        self.sample = GaussianSample()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        drawn: Tensor = self.head(self.sample(self.mean(x), self.spread(x)))
        return drawn


def test_noise_of_stochastic_layers_reaches_each_use() -> None:
    """Two plain steps on a record each: the second starts where the first, with its own draw, left off."""
    victim = Victim(FunctionalModel(initialise(Sampled, 0), (1, 8, 8)), cross_entropy, (1, 8, 8), 3)
    state = victim.model.parameters_of(victim.model.state())
    images, labels = IMAGES[:2], torch.tensor([0, 1])
    noise = {"sample": torch.randn(2, 4, generator=torch.Generator().manual_seed(0))}
    observation = Observation(
        1, 0, state, {n: torch.ones_like(v) for n, v in state.items()}, {}, {}, KnownConfig()
    )
    plan = LocalPlan((1, 1), learning_rate=0.1)
    problem = Problem.of(victim, [observation], labels[None], training=True, client=plan)
    moved = {name: value[None] for name, value in noise.items()}
    found = unrolled(problem, Variables(images[None], noise=moved), plan).update

    def loss(learned: State, x: Tensor, y: Tensor, drawn: State) -> Tensor:
        outputs, _ = victim.model(learned, x, training=True, noise=drawn)
        return cross_entropy(outputs, y).mean()

    learned = dict(state)
    for use in range(2):
        now = slice(use, use + 1)
        drawn = {name: value[now] for name, value in noise.items()}
        slope = torch.func.grad(loss)(learned, images[now], labels[now], drawn)
        learned = {name: value - 0.1 * slope[name] for name, value in learned.items()}
    expected = {name: (state[name] - learned[name]) / 0.2 for name in state}
    assert apart(expected, {name: value[0] for name, value in found.items()}) < 1e-5
    mean = {name: torch.zeros_like(value) for name, value in moved.items()}
    silent = unrolled(problem, Variables(images[None], noise=mean), plan).update
    assert apart(expected, {name: value[0] for name, value in silent.items()}) > 0.1


def test_rows_of_a_problem_equal_clients_one_by_one() -> None:
    """Two victims of five records in an order of their own, and once more with an image per use."""
    victim = victim_of(normed)
    state = victim.model.state()
    parameters, buffers = victim.model.parameters_of(state), victim.model.buffers_of(state)
    plan = LocalPlan(sizes_of(5, 3, 4), learning_rate=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack(
        [torch.cat([torch.randperm(5, generator=generator) for _ in range(2)]) for _ in range(2)]
    )
    images, labels = IMAGES[:10].view(2, 5, 1, 8, 8), LABELS[:10].view(2, 5)
    update = {name: torch.ones_like(value) for name, value in parameters.items()}
    observation = Observation(1, 0, parameters, update, buffers, {}, KnownConfig(), examples=5)
    problem = Problem.of(victim, [observation] * 2, labels, training=True, client=plan)
    recorded = replace(problem, order=orders)
    found = unrolled(recorded, Variables(images), plan)
    rows = torch.arange(2)[:, None]
    used = replace(problem, labels=labels[rows, orders])
    each = unrolled(used, Variables(images[rows, orders]), plan)
    flipped = torch.tensor([1, 0])
    picked = unrolled(recorded.pick(flipped), Variables(images[flipped]), plan)
    for row in range(2):
        x, y = images[row, orders[row]], labels[row, orders[row]]
        alone = client(victim, parameters, buffers, x, y, {}, plan, training=True)
        for other, at in ((found, row), (each, row), (picked, 1 - row)):
            assert apart(alone.update, {n: v[at] for n, v in other.update.items()}) < 1e-4
            assert apart(alone.buffers, {n: v[at] for n, v in other.buffers.items()}) < 1e-5
