"""Mixtures of records that look like one: with two or three classes cotangents are parallel, or nearly so.

The cotangents of a softmax over two classes are multiples of (1, -1), so that behind linear layers the update
of any batch has rank one. None of it may be certified.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attack_scene import IMAGES, LABELS, stream
from fedlab_attacks.cascade import Cascade
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.linear_layer import LinearLayer
from fedlab_attacks.exact.sparse_batch import SparseBatch
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction
from fedlab.audit.metrics import match, psnr
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.clients.config import ClientConfig
from fedlab.tasks import FunctionalModel, cross_entropy, initialise

RATE = 0.1


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def straight() -> nn.Module:
    """A convolution and a linear layer with nothing between them."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 2))


def rectifier(width: int, classes: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def client(
    network: Callable[[], nn.Module], steps: list[list[int]], classes: int = 2, seed: int = 0
) -> tuple[Victim, Observation, Tensor]:
    """A client that takes a step on each of some batches of digits, labelled by their remainder."""
    model = FunctionalModel(initialise(network, seed), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), classes)
    before = model.parameters_of(model.state())
    now = dict(before)
    for ids in steps:
        slope = victim.gradient(now, {}, IMAGES[ids], LABELS[ids] % classes, training=False)
        now = {name: value - RATE * slope[name] for name, value in now.items()}
    update = {name: now[name] - value for name, value in before.items()}
    config = ClientConfig("eval", len(steps[0]), local_steps=len(steps), learning_rate=RATE)
    used = sorted({one for ids in steps for one in ids})
    return victim, Observation(1, 0, before, update, {}, {}, config), IMAGES[used]


def answer(attack: Attack, victim: Victim, observation: Observation, **knowledge: bool) -> Reconstruction:
    threat = ThreatModel(client_mode="eval", **knowledge)  # type: ignore[arg-type]
    return attack([observation], threat, victim, generator=stream())[0]


def worst(found: Reconstruction, truth: Tensor) -> float:
    assert found.images is not None
    order = match(found.images, truth)
    return min(
        float(psnr(found.images[j : j + 1], truth[i : i + 1])) for i, j in enumerate(order) if j is not None
    )


@pytest.mark.parametrize("attack", [LinearLayer(), LayerPeel()])
@pytest.mark.parametrize(
    ("steps", "denied"),
    [([[1, 2]], "batch_size"), ([[1, 2, 3]], "batch_size"), ([[1], [2]], "local_steps")],
)
def test_rank_one_is_no_single_record_where_nobody_counted_them(
    attack: Attack, steps: list[list[int]], denied: str
) -> None:
    victim, observation, truth = client(linear, steps)
    found = answer(attack, victim, observation, **{denied: False})
    assert not any(one.proves for one in found.certificates)
    assert "unknown" in str(found.certificates[-1])
    assert worst(found, truth[:1]) < 20.0  # and rightly: it is a mixture


@pytest.mark.parametrize("network", [linear, straight])
def test_a_batch_of_two_classes_is_not_peeled(network: Callable[[], nn.Module]) -> None:
    victim, observation, _ = client(network, [[1, 2]])
    found = answer(LayerPeel(), victim, observation)
    assert found.images is None and "2 records; one is solved for" in str(found.refusal)


@pytest.mark.parametrize("network", [linear, straight])
def test_one_record_of_two_classes_is_still_certified(network: Callable[[], nn.Module]) -> None:
    victim, observation, truth = client(network, [[1]])
    found = answer(LayerPeel(), victim, observation)
    assert found.certificates[-1].proves and worst(found, truth) > 90.0


@pytest.mark.parametrize("denied", ["batch_size", "local_steps"])
def test_without_proof_one_record_is_still_answered(denied: str) -> None:
    """The descents that follow keep what a closed form confirmed."""
    victim, observation, truth = client(rectifier(32, 10), [[1]], classes=10)
    found = answer(Cascade(iterations=5, samples=2048), victim, observation, **{denied: False})
    assert not any(one.proves for one in found.certificates)
    assert worst(found, truth) > 90.0


@pytest.mark.parametrize(("width", "classes"), [(16, 2), (32, 2), (32, 3)])
def test_a_mixture_that_is_mostly_one_record_is_no_proof(width: int, classes: int) -> None:
    """It, too, leaves units shut in whose rows only the other record is left."""
    certified = 0
    for seed in range(40):
        ids = torch.randperm(1000, generator=stream(seed))[:2].tolist()
        victim, observation, truth = client(rectifier(width, classes), [ids], classes, seed)
        found = answer(LinearLayer(), victim, observation)
        if any(one.proves for one in found.certificates):
            certified += 1
            assert worst(found, truth) > 60.0
    assert certified > 0  # or the test says nothing


def test_a_narrow_layer_has_too_few_units_to_tell_a_record_from_a_mixture() -> None:
    """Ten units, two classes: now and then a wrong choice contradicts none of the few signs."""
    attack = SparseBatch(samples=2048)
    for seed in range(20):
        ids = torch.randperm(1000, generator=stream(seed))[:2].tolist()
        victim, observation, _ = client(rectifier(10, 2), [ids], 2, seed)
        assert not any(one.proves for one in answer(attack, victim, observation).certificates)
    victim, observation, truth = client(rectifier(128, 10), [[1, 2]], 10)
    found = answer(attack, victim, observation)
    assert found.certificates[-1].proves and worst(found, truth) > 60.0


def test_a_batch_is_solved_alone_as_in_company() -> None:
    victim, first, _ = client(rectifier(128, 10), [[1, 2, 3]], 10)
    _, second, _ = client(rectifier(128, 10), [[4, 5, 6]], 10)
    attack, threat = SparseBatch(samples=2048), ThreatModel(client_mode="eval")
    together = attack([first, second], threat, victim, generator=stream())[1]
    alone = attack([second], threat, victim, generator=stream())[0]
    assert together.images is not None and alone.images is not None
    assert torch.equal(together.images, alone.images)
