"""What a client's batch looked like to its norm layers: solved exactly, estimated, or read off the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, Scene, mlp, scene
from fedlab_attacks.optimise.problem import Statistics
from fedlab_attacks.optimise.statistics import (
    client_statistics,
    moments,
    proxy_statistics,
    recording,
    running_statistics,
    stacked,
)
from torch import Tensor, nn

from fedlab.audit.observation import Observation, Part, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Proxy
from fedlab.errors import Contradiction, MissingBuffers, NotApplicable
from fedlab.tasks.layers import BatchNorm


def normed() -> nn.Module:
    """Two batch norms of unlike momentum: over maps and, behind dropout, over features."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.BatchNorm1d(64),
        nn.Linear(64, 10),
    )


def every_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.LayerNorm(256),
        nn.Linear(256, 10),
    )


def trained(batch: int, network: Callable[[], nn.Module] = normed) -> tuple[Scene, Observation, Statistics]:
    """A client's step in training mode from moved running statistics, and what its layers really saw."""
    found = scene(network, victims=1, batch=batch)
    model, observation = found.victim.model, found.observations[0]
    generator = torch.Generator().manual_seed(5)
    start = {
        name: torch.rand(value.shape, generator=generator) * 3 + 0.1
        for name, value in observation.buffers_before.items()
    }
    with recording(found.victim) as true:
        _, after = model(
            {**observation.before, **start},
            found.images[0],
            training=True,
            masks=model.draw_masks(batch, generator) or None,
        )
    observation = replace(observation, buffers_before=start, buffers_after=after)
    return found, observation, true


def assert_equal(found: Statistics, expected: Statistics, tolerance: float = 1e-5) -> None:
    assert list(found) == list(expected)
    for name, (mean, variance) in expected.items():
        torch.testing.assert_close(found[name][0], mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found[name][1], variance, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_one_step_leaves_its_batch_statistics_in_the_running_ones(batch: int) -> None:
    found, observation, true = trained(batch)
    solved = client_statistics(observation, found.victim, batch)
    assert_equal(solved, true)
    assert float(solved["1"][1].min()) > 1e-4  # one image has 16 values per channel, and a variance


def test_a_solved_mean_by_hand() -> None:
    """Momentum 0.5, running mean 1 to 3: the batch's mean was 5. Variance 2 to 4 was unbiased 6; n = 3: 4."""
    found = scene(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=0.5), nn.Linear(64, 10)))
    full = {
        "before": {"1.running_mean": torch.full((64,), 1.0), "1.running_var": torch.full((64,), 2.0)},
        "after": {"1.running_mean": torch.full((64,), 3.0), "1.running_var": torch.full((64,), 4.0)},
    }
    seen = replace(found.observations[0], buffers_before=full["before"], buffers_after=full["after"])
    assert_equal(
        client_statistics(seen, found.victim, 3),
        {"1": (torch.full((64,), 5.0), torch.full((64,), 4.0))},
        1e-7,
    )


def test_what_cannot_be_solved_says_why() -> None:
    found, observation, _ = trained(2)
    victim, config = found.victim, observation.config

    def refused(error: type[Exception], match: str, seen: Observation, batch: int = 2) -> None:
        with pytest.raises(error, match=match):
            client_statistics(seen, victim, batch)

    kept = ThreatModel(batch_norm_buffers=False).view(observation)
    refused(MissingBuffers, "batch_norm_buffers", kept)
    refused(NotApplicable, "2 local steps", replace(observation, config=replace(config, local_steps=2)))
    refused(NotApplicable, "unknown", ThreatModel(local_steps=False).view(observation))
    parts = (Part(0, 1), Part(1, 1))
    refused(NotApplicable, r"2 client\(s\)", replace(observation, parts=parts))
    after = observation.buffers_after
    refused(
        Contradiction,
        "not finite",
        replace(observation, buffers_after={n: v * torch.nan for n, v in after.items()}),
    )
    shrunk = {name: value * 0.1 for name, value in observation.buffers_before.items()}
    refused(Contradiction, "running variance", replace(observation, buffers_after=shrunk))
    plain = scene(mlp)
    with pytest.raises(MissingBuffers, match="no batch norm"):
        client_statistics(plain.observations[0], plain.victim, 1)
    with pytest.raises(MissingBuffers, match="no batch norm"):
        running_statistics(plain.observations[0], plain.victim)


def test_batch_norm_that_never_moves_is_missing_its_buffers() -> None:
    still = scene(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=0.0), nn.Linear(64, 10)))
    with pytest.raises(MissingBuffers, match="momentum 0"):
        client_statistics(still.observations[0], still.victim, 1)


def test_a_random_twin_tells_only_what_the_server_sent() -> None:
    found, observation, _ = trained(2)
    twin = random_twin(observation, torch.Generator().manual_seed(0))
    sent = running_statistics(observation, found.victim)
    solved = client_statistics(twin, found.victim, 2)
    for name, n in {"1": 2 * 16, "5": 2}.items():
        torch.testing.assert_close(solved[name][0], sent[name][0])
        torch.testing.assert_close(solved[name][1], sent[name][1] * (n - 1) / n)


def test_moments_are_per_channel_for_batch_norm_and_one_for_the_rest() -> None:
    x = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[5.0, 7.0], [2.0, 2.0]]])  # two records, two channels
    mean, variance = moments(BatchNorm(2), x)
    assert mean.tolist() == [4.0, 1.0] and variance.tolist() == [5.0, 1.0]
    mean, variance = moments(nn.GroupNorm(1, 2), x)
    assert mean.tolist() == [2.5] and variance.tolist() == [5.25]


@pytest.mark.parametrize("training", [True, False])
def test_proxy_data_that_are_the_clients_own_give_its_statistics(training: bool) -> None:
    found = scene(every_norm, victims=1, batch=4, mode="train" if training else "eval")
    observation = found.observations[0]
    victim = replace(found.victim, proxy=Proxy(found.images[0], found.labels[0]))
    with recording(victim) as true:
        victim.model({**observation.before, **observation.buffers_before}, found.images[0], training=training)
    estimated = proxy_statistics(
        observation, victim, 4, training=training, generator=torch.Generator().manual_seed(0)
    )
    assert {name: len(mean) for name, (mean, _) in estimated.items()} == {"1": 1, "2": 1, "3": 4, "5": 1}
    assert_equal(estimated, true, 1e-6)


def test_proxy_statistics_average_whole_batches_and_see_dropout() -> None:
    found = scene(normed, victims=1, batch=2)
    observation = found.observations[0]

    def estimate(images: Tensor, seed: int = 0, rates: bool = True) -> Statistics:
        victim = replace(found.victim, proxy=Proxy(images, LABELS[: len(images)]))
        stream = torch.Generator().manual_seed(seed)
        return proxy_statistics(observation, victim, 2, training=True, rates=rates, generator=stream)

    first, second, both = estimate(IMAGES[:2]), estimate(IMAGES[2:4]), estimate(IMAGES[:5])
    for kind in (0, 1):
        torch.testing.assert_close(both["1"][kind], (first["1"][kind] + second["1"][kind]) / 2)
    assert not torch.equal(estimate(IMAGES[:2], 1)["5"][0], first["5"][0])
    blind = [estimate(IMAGES[:2], seed, rates=False)["5"][0] for seed in (0, 1)]
    assert torch.equal(*blind)


def test_proxy_statistics_need_data_and_a_norm_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    found = scene(normed, victims=1)
    with pytest.raises(NotApplicable, match="proxy_data"):
        proxy_statistics(found.observations[0], found.victim, 1, training=True, generator=generator)
    plain = scene(mlp, victims=1)
    victim = replace(plain.victim, proxy=Proxy(IMAGES[:4], LABELS[:4]))
    with pytest.raises(NotApplicable, match="no normalisation layer"):
        proxy_statistics(plain.observations[0], victim, 1, training=True, generator=generator)


def test_victims_statistics_are_stacked_layer_by_layer() -> None:
    one = {"1": (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))}
    two = {"1": (torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]))}
    mean, variance = stacked([one, two])["1"]
    assert mean.tolist() == [[1.0, 2.0], [5.0, 6.0]] and variance.tolist() == [[3.0, 4.0], [7.0, 8.0]]


def test_recording_is_differentiable_and_ends() -> None:
    found = scene(normed, victims=1, batch=2)
    image = IMAGES[:2].clone().requires_grad_()
    state = found.victim.model.state()
    with recording(found.victim) as seen:
        found.victim.model(state, image, training=False)
    (slope,) = torch.autograd.grad(seen["1"][1].sum(), image)
    assert bool(slope.any())
    kept = seen["1"]
    found.victim.model(state, 1 - IMAGES[:2], training=False)
    assert seen["1"] is kept
