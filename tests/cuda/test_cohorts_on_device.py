"""Cohorts on a device against float64 on the CPU: same masks, same batches, sums rounded otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from rounding import as_tf32, bound, difference, distance
from torch import nn

from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.cohort import CohortResult
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy
from fedlab.tasks.models.convnet import convnet
from tests.conftest import batch_norm_mlp

SEED = 3
SIZES = (5, 9, 10)
CONFIG = ClientConfig(batch_size=4, local_epochs=2, momentum=0.9, weight_decay=1e-3)
STEPS = 2 * 3  # two epochs of at most three batches
Network = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Network, int, int]] = {
    # name: network, its layers, the most products in one of its sums
    "mlp with batch norm and dropout": (batch_norm_mlp, 2, 16),
    "convolutions": (partial(convnet, (1, 4, 4), 3, width=8, norm="none"), 4, 8 * 9),
}


def trained(
    network: Network,
    data: Dataset,
    device: str,
    *,
    stacked: bool = True,
    kind: torch.dtype = torch.float32,
    config: ClientConfig = CONFIG,
    start: State | None = None,
) -> tuple[State, CohortResult]:
    """Where three clients begin, and what they come to."""
    torch.manual_seed(SEED)
    model = FunctionalModel(network().to(kind), data.shape)
    state = start or model.state()
    training = LocalTraining(
        model, cross_entropy, data, LocalRule(), config, SEED, stacked=stacked, device=device
    )
    jobs = [
        ClientJob(c, 1, state, {}, np.arange(10 * c, 10 * c + n), plan_batches(n, config, SEED, 1, c))
        for c, n in enumerate(SIZES)
    ]
    if stacked:
        return state, training(jobs)
    each = [training([job]) for job in jobs]
    joined = {name: torch.cat([one.state[name] for one in each]) for name in each[0].state}
    losses = [one.losses[0] for one in each]
    return state, CohortResult(joined, {}, {}, losses, [one.steps[0] for one in each])


def updates(start: State, found: CohortResult) -> list[State]:
    floating = {name for name, value in start.items() if value.is_floating_point()}
    each = [{name: one.state[name] for name in floating} for one in found]
    return [difference(one, start) for one in each]


@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "one by one"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_client_learns_what_it_learns_in_float64(
    small_data: Dataset, device: str, name: str, stacked: bool
) -> None:
    network, layers, terms = NETWORKS[name]
    start, exact = trained(network, small_data, "cpu", stacked=stacked, kind=torch.float64)
    single = {key: value.float() if value.is_floating_point() else value for key, value in start.items()}
    _, found = trained(network, small_data, device, stacked=stacked, start=single)
    assert all(value.device.type == "cpu" for value in found.state.values()), "results come back"
    for ours, reference in zip(updates(single, found), updates(start, exact), strict=True):
        allowed = bound(start, reference, layers=layers, terms=terms, steps=STEPS)
        assert distance(ours, reference) <= allowed
    assert found.losses == pytest.approx(exact.losses, rel=1e-4)


def test_the_bound_would_notice_tf32(small_data: Dataset) -> None:
    """A start rounded as tensor cores round their factors moves the update further than is allowed."""
    network, layers, terms = NETWORKS["convolutions"]
    start, exact = trained(network, small_data, "cpu", kind=torch.float64)
    rounded, found = trained(network, small_data, "cpu", start=as_tf32(start))
    reference = updates(start, exact)[0]
    assert distance(updates(rounded, found)[0], reference) > bound(
        start, reference, layers=layers, terms=terms, steps=STEPS
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_work_gives_the_same_bits(small_data: Dataset, device: str, name: str) -> None:
    """So that a run can be resumed on a GPU: no kernel adds in an order of its own."""
    first, second = (trained(NETWORKS[name][0], small_data, device)[1] for _ in range(2))
    assert first.losses == second.losses
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())


def test_recorded_steps_are_replayed_with_the_same_bits(small_data: Dataset, device: str) -> None:
    """After 16 steps of one shape a recording is made, and kept only if it gives the same bits."""
    config = ClientConfig(batch_size=5, local_steps=40, learning_rate=0.05)
    model = FunctionalModel(batch_norm_mlp(), small_data.shape)
    training = LocalTraining(model, cross_entropy, small_data, LocalRule(), config, SEED, device=device)
    state = model.state()
    jobs = [
        ClientJob(c, 1, state, {}, np.arange(5 * c, 5 * c + 5), plan_batches(5, config, SEED, 1, c))
        for c in range(3)
    ]
    recorded = training(jobs)
    assert training._directions._recordings and training._directions._faithful
    again = training(jobs)
    assert all(torch.equal(value, again.state[key]) for key, value in recorded.state.items())


def test_a_gpu_computes_in_whole_float32(small_data: Dataset, device: str) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    trained(batch_norm_mlp, small_data, device)
    now = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    assert now == ((False, True) if device == "cuda" else before)
