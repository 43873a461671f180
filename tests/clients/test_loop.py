"""The stacked loop against torch's own modules and optimizer, and against itself one by one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlab import seeds
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, Sent, Work
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from tests.conftest import batch_norm_mlp, dropout_mlp


def make(
    data: Dataset, network: Callable[[], nn.Module], config: ClientConfig, sizes: list[int]
) -> tuple[LocalTraining, list[ClientJob]]:
    model = FunctionalModel(network(), data.shape)
    training = LocalTraining(model, cross_entropy, data, LocalRule(), config, seed=3)
    starts = np.cumsum([0, *sizes])
    jobs = [
        ClientJob(
            client=c,
            round=2,
            state=model.state(),
            memory={},
            records=np.arange(starts[c], starts[c] + n),
            plan=plan_batches(n, config, 3, 2, c),
        )
        for c, n in enumerate(sizes)
    ]
    return training, jobs


EPOCHS = ClientConfig(batch_size=4, local_epochs=2, momentum=0.9, weight_decay=0.01)
FULL = ClientConfig(batch_size=0, local_steps=3)
SINGLE = ClientConfig(batch_size=1, local_steps=1)
EVAL = ClientConfig(batch_size=3, local_steps=4, mode="eval")


@pytest.mark.parametrize(
    ("network", "config"),
    # SINGLE has no batch-norm row: the batch statistics of one record are zero over zero by design.
    [(dropout_mlp, c) for c in (EPOCHS, FULL, SINGLE, EVAL)]
    + [(batch_norm_mlp, c) for c in (EPOCHS, FULL, EVAL)],
)
def test_stacked_equals_one_by_one(
    small_data: Dataset, network: Callable[[], nn.Module], config: ClientConfig
) -> None:
    training, jobs = make(small_data, network, config, [5, 12, 9, 20, 7])
    for job, together in zip(jobs, training(jobs), strict=True):
        alone = training([job])[0]
        moved = torch.cat([(alone.state[n] - job.state[n]).flatten() for n in job.state])
        apart = torch.cat([(alone.state[n] - together.state[n]).flatten() for n in job.state])
        assert float(apart.norm()) <= 1e-5 * float(moved.norm())
        assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_in_float64_stacked_and_one_by_one_agree_to_ten_digits(small_data: Dataset) -> None:
    training, jobs = make(small_data, lambda: batch_norm_mlp().double(), EPOCHS, [5, 12, 9, 20, 7])
    alone = LocalTraining(
        training.model, cross_entropy, small_data, LocalRule(), EPOCHS, seed=3, stacked=False
    )
    for job, together in zip(jobs, training(jobs), strict=True):
        single = alone([job])[0]
        for name, value in together.state.items():
            assert value.dtype == job.state[name].dtype
            apart = float((value - single.state[name]).norm())
            assert apart <= 1e-10 * max(1e-30, float((value - job.state[name]).norm()))


@pytest.mark.parametrize("sizes", [[3, 20], [3, 4, 20], [20, 3, 16, 4, 4, 4, 5, 2], [8] * 21])
def test_any_stack_gives_each_client_the_same_bits(small_data: Dataset, sizes: list[int]) -> None:
    """Clients that are done leave the stack; those that stay keep their bits, and so does their order."""
    config = ClientConfig(batch_size=2, local_epochs=2, momentum=0.5)
    offsets = np.random.default_rng(1).integers(0, 60, len(sizes))
    model = FunctionalModel(dropout_mlp(), small_data.shape)
    training = LocalTraining(model, cross_entropy, small_data, LocalRule(), config, seed=3)
    start = model.state()
    jobs = [
        ClientJob(c, 2, start, {}, np.arange(o, o + n), plan_batches(n, config, 3, 2, c))
        for c, (n, o) in enumerate(zip(sizes, offsets, strict=True))
    ]
    together = training(jobs)
    for c, job in enumerate(jobs):
        alone = training([job])[0]
        assert all(torch.equal(alone.state[n], together[c].state[n]) for n in start)
        assert (
            alone.loss == together[c].loss
            and alone.steps == together[c].steps == sizes[c] // 2 * 2 + (sizes[c] % 2) * 2
        )


class Remembering(LocalRule):
    """Carries the parameters of the step before, and sends them instead of the last ones."""

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return dict(parameters)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        return gradient, aux, dict(parameters)

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return Sent(carry, {}, {})


def test_a_rule_may_carry_old_parameters_on(small_data: Dataset) -> None:
    """What it sends after 21 steps is what FedAvg sends after 20 (recorded steps and all)."""
    long, short = (ClientConfig(batch_size=0, local_steps=n, mode="eval") for n in (21, 20))
    plain, jobs = make(small_data, dropout_mlp, short, [6, 6])
    late = LocalTraining(plain.model, cross_entropy, small_data, Remembering(), long, seed=3)
    longer = [replace(job, plan=[*job.plan, job.plan[0]]) for job in jobs]
    for a, b in zip(plain(jobs), late(longer), strict=True):
        assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)


def test_the_loop_is_torch_sgd(small_data: Dataset) -> None:
    """Three mini-batches with momentum and weight decay, dropout masks taken from the seed tree."""
    config = ClientConfig(batch_size=4, local_steps=3, momentum=0.9, weight_decay=0.1, learning_rate=0.2)
    training, jobs = make(small_data, dropout_mlp, config, [10, 12])
    net = dropout_mlp()
    net.load_state_dict(jobs[1].state)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1)
    for step, picks in enumerate(jobs[1].plan):
        generator = seeds.torch_generator(3, "dropout", 2, 1, step)
        mask = training.model.draw_masks(len(picks), generator)["3"]
        ids = jobs[1].records[picks]
        hidden = net[2](net[1](net[0](small_data.images(ids)))) * mask / 0.5
        loss = nn.functional.cross_entropy(net[4](hidden), small_data.labels(ids))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result = training(jobs)[1]
    for name, value in net.state_dict().items():
        torch.testing.assert_close(result.state[name], value, rtol=1e-5, atol=1e-6)


def test_batch_norm_statistics_are_the_clients_own(small_data: Dataset) -> None:
    config = ClientConfig(batch_size=0, local_steps=1)
    training, jobs = make(small_data, batch_norm_mlp, config, [6, 6])
    first, second = training(jobs)
    assert not torch.equal(first.state["2.running_mean"], second.state["2.running_mean"])
    net = batch_norm_mlp().train()
    net.load_state_dict(jobs[0].state, strict=False)
    net[:3](small_data.images(jobs[0].records))
    torch.testing.assert_close(first.state["2.running_var"], net[2].running_var)


def test_an_empty_poisson_batch_moves_nothing(small_data: Dataset) -> None:
    config = ClientConfig(batch_size=1, local_steps=1, sampling="poisson")
    training, jobs = make(small_data, dropout_mlp, config, [4, 4])
    empty = ClientJob(0, 2, jobs[0].state, {}, jobs[0].records, [np.array([], dtype=np.int64)])
    result = training([empty, jobs[1]])[0]
    assert all(torch.equal(result.state[n], v) for n, v in empty.state.items())


def test_eval_mode_trains_without_dropout(small_data: Dataset) -> None:
    """In evaluation mode the update of a dropout network is that of the same network without dropout."""
    config = ClientConfig(batch_size=0, local_steps=1, mode="eval")
    training, jobs = make(small_data, dropout_mlp, config, [8, 8])
    plain = FunctionalModel(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Identity(), nn.Linear(12, 3)), (1, 4, 4)
    )
    reference = LocalTraining(plain, cross_entropy, small_data, LocalRule(), config, seed=3)
    for a, b in zip(training(jobs), reference(jobs), strict=True):
        assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)


@pytest.mark.parametrize("shift", range(1, 16))
def test_where_a_state_lies_in_memory_changes_no_bit(small_data: Dataset, shift: int) -> None:
    """As slices of a vector, at any offset: through Ray and out of files states come like that."""
    config = ClientConfig(batch_size=1, local_steps=3)

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 22), nn.ReLU(), nn.Linear(22, 22), nn.Linear(22, 3))

    training, jobs = make(small_data, network, config, [9, 9, 9])
    start = jobs[0].state
    moved = {}
    for name, value in start.items():
        room = torch.zeros(value.numel() + shift)
        room[shift:] = value.reshape(-1)
        moved[name] = room[shift:].reshape(value.shape)
    here = training([replace(job, state=start) for job in jobs])
    there = training([replace(job, state=moved) for job in jobs])
    assert all(torch.equal(here.state[n], there.state[n]) for n in start)
