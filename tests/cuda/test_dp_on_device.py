"""DP-SGD on a device: clipped as in float64, the CPU's own noise, and never more than the bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.private_gradients import NOISE
from rounding import SAFETY, UNIT, bound, difference, distance, norm
from torch import nn

from fedlab import seeds
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, State, cross_entropy

SEED, RECORDS, CLIENTS, STEPS, CLIP, RATE = 5, 20, 3, 3, 0.05, 0.5
POISSON = ClientConfig(batch_size=5, local_steps=STEPS, learning_rate=RATE, sampling="poisson")


def network(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
    ).to(kind)


def updates(
    data: Dataset,
    device: str,
    sigma: float,
    *,
    kind: torch.dtype = torch.float32,
    config: ClientConfig = POISSON,
    clipping: str = "flat",
) -> tuple[State, list[State]]:
    """Weights before, and what each client sends, stacked in one cohort."""
    federation = Federation((RECORDS,) * CLIENTS, 10, config)
    rule = DPSGD(noise_multiplier=sigma, max_grad_norm=CLIP, clipping=clipping).local_rule(  # type: ignore[arg-type]
        LocalRule(), federation
    )
    model = FunctionalModel(network(kind), data.shape)
    training = LocalTraining(model, cross_entropy, data, rule, config, SEED, device=device)
    start = model.state()
    plans = [plan_batches(RECORDS, config, SEED, 1, client) for client in range(CLIENTS)]
    jobs = [
        ClientJob(client, 1, start, {}, np.arange(client * RECORDS, (client + 1) * RECORDS), plan)
        for client, plan in enumerate(plans)
    ]
    return start, [difference(one.state, start) for one in training(jobs)]


@pytest.mark.parametrize("clipping", ["flat", "per-layer"])
def test_clipping_is_that_of_float64(small_data: Dataset, device: str, clipping: str) -> None:
    """Without noise: a clipped gradient is a gradient times a norm, one more sum over all parameters."""
    start, exact = updates(small_data, "cpu", 0.0, kind=torch.float64, clipping=clipping)
    _, found = updates(small_data, device, 0.0, clipping=clipping)
    terms = sum(value.numel() for value in start.values())
    for ours, reference in zip(found, exact, strict=True):
        assert distance(ours, reference) <= bound(start, reference, layers=4, terms=terms, steps=STEPS)


def test_no_record_moves_a_client_further_than_the_bound(small_data: Dataset, device: str) -> None:
    """One record in the batch and no noise: a step is lr C long at most, and just that where it is clipped.

    The weights before and after are stored in float32, which may lengthen the difference by u ||w||.
    """
    config = replace(POISSON, batch_size=1, local_steps=1, sampling="shuffle")
    start, found = updates(small_data, device, 0.0, config=config)
    slack = SAFETY * UNIT * norm(start)
    for update in found:
        assert norm(update) <= RATE * CLIP + slack
        assert norm(update) == pytest.approx(RATE * CLIP, abs=slack), "each of these gradients is clipped"


def test_noise_is_the_same_wherever_it_is_added(small_data: Dataset, device: str) -> None:
    """It is drawn on the CPU from the seed tree, so that a device only rounds its sums otherwise."""
    start, reference = updates(small_data, "cpu", 2.0)
    _, found = updates(small_data, device, 2.0)
    terms = sum(value.numel() for value in start.values())
    for ours, theirs in zip(found, reference, strict=True):
        assert distance(ours, theirs) <= bound(start, theirs, layers=4, terms=terms, steps=STEPS)


def test_noise_has_the_length_that_is_accounted(small_data: Dataset, device: str) -> None:
    """In one step noise adds -lr σ C / B times the draw to an update: the difference of two updates."""
    config = replace(POISSON, local_steps=1)
    start, noisy = updates(small_data, device, 2.0, config=config)
    _, plain = updates(small_data, device, 0.0, config=config)
    rule = DPSGD(noise_multiplier=2.0, max_grad_norm=CLIP).local_rule(
        LocalRule(), Federation((RECORDS,) * CLIENTS, 10, config)
    )
    for client, (with_noise, without) in enumerate(zip(noisy, plain, strict=True)):
        drawn = rule.draws(start, seeds.torch_generator(SEED, "rule", 1, client, 0))
        scale = -RATE * 2.0 * CLIP / config.batch_size
        expected = {name: scale * drawn[f"{NOISE}{name}"] for name in start}
        added = difference(with_noise, without)
        assert norm(difference(added, expected)) <= 2 * SAFETY * UNIT * (norm(start) + norm(expected))
