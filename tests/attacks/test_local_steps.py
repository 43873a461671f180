"""FedAvg updates: the order as a variable, label counts over steps, and images out of several epochs."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from fedlab_attacks.optimise.capture import Simulated
from fedlab_attacks.optimise.order import copied, epochs_agree, merged, shares
from fedlab_attacks.optimise.problem import LocalPlan, Problem
from fedlab_attacks.optimise.simulate import simulate
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.recipes.local_steps import LocalSteps, plan_of
from fedlab_attacks.recipes.training_client import TrainingClient
from fedlab_attacks.step_labels import fill, step_labels, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.attacks.scene import observe
from fedlab.audit.attack import Attack
from fedlab.audit.observation import Observation, Part, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.clients import ClientConfig
from fedlab.errors import MissingKnowledge, NotApplicable, UsageError
from fedlab.tasks import Dataset
from fedlab.tasks.layers import GaussianSample
from tests.attacks.attack_scene import IMAGES, LABELS, Scene, mlp, stream

EPOCHS = ClientConfig(batch_size=2, local_epochs=2, learning_rate=0.02, momentum=0.9)


def trained(config: ClientConfig = EPOCHS, records: int = 4, victims: int = 2, seed: int = 0) -> Scene:
    """What the server sees of clients that train with fedlab's own code."""
    data = Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, source="scikit-learn")
    network = functools.partial(mlp, 0.0, 48)
    seen = observe(network, data, config, victims=victims, records=records, seed=seed)
    return Scene(seen.victim, seen.observations, seen.images, seen.labels)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), sizes=st.sampled_from([(2, 2), (3, 3, 2, 3, 3, 2), (2, 2, 2, 2, 2)]))
def test_shares_are_orders_on_average(seed: int, sizes: tuple[int, ...]) -> None:
    """Each step's weights add up to one; uniform logits give uniform weights."""
    records = {2: 4, 3: 8}[sizes[0]]
    logits = torch.randn(3, len(sizes), records, generator=stream(seed))
    found = shares(logits, sizes)
    assert found.shape == logits.shape
    assert torch.allclose(found.sum(-1), torch.ones(3, len(sizes)), atol=1e-5)
    assert torch.allclose(shares(torch.zeros_like(logits), sizes), torch.tensor(1 / records), atol=1e-6)


def test_a_decided_order_is_kept_and_uses_each_record_once() -> None:
    """Two steps of two out of four records: large logits name the batches {0, 3} and {1, 2}."""
    logits = torch.tensor([[9.0, -9.0, -9.0, 9.0], [-9.0, 9.0, 9.0, -9.0]])
    expected = torch.tensor([[0.5, 0.0, 0.0, 0.5], [0.0, 0.5, 0.5, 0.0]])
    assert torch.allclose(shares(logits, (2, 2)), expected, atol=1e-3)


def test_uniform_shares_are_steps_on_all_records() -> None:
    """The expected gradient over orders: as if each step's batch were everything."""
    seen = trained()
    plan = plan_of(seen.observations[0], 4)
    labels, images = torch.stack(seen.labels), torch.stack(seen.images)
    problem = Problem.of(seen.victim, seen.observations, labels, training=True, client=plan)
    soft = simulate(problem, Variables(images, noise={"order": torch.zeros(2, 4, 4)}))
    whole = replace(problem, client=replace(plan, sizes=(4,) * 4), order=torch.arange(4).repeat(2, 4))
    hard = simulate(whole, Variables(images))
    for name, value in hard.update.items():
        assert torch.allclose(soft.update[name], value, atol=1e-5)


def test_epochs_agree_by_hand() -> None:
    """Epoch means 0.5 and 0.25: both differ from 0.375 by 0.125."""
    images = torch.tensor([0.0, 1.0, 0.5, 0.0]).view(1, 4, 1, 1, 1)
    problem = object()
    found = epochs_agree(2)(problem, Variables(images), Simulated({}, {}, {}))  # type: ignore[arg-type]
    assert float(found[0]) == pytest.approx(0.125**2)


def test_copies_are_matched_within_labels_and_averaged() -> None:
    first = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1)
    second = torch.tensor([0.6, 0.1, 0.9]).view(3, 1, 1, 1)
    labels = torch.tensor([0, 1, 1, 1, 0, 1])
    images, kept = merged(torch.cat([first, second]), labels, 3)
    assert images.flatten().tolist() == pytest.approx([0.05, 0.95, 0.55])
    assert kept.tolist() == [0, 1, 1]


def test_every_epoch_of_copies_has_every_label_once() -> None:
    drawn = copied(4, 10, stream())
    assert sorted(drawn[:4].tolist()) == sorted(drawn[4:8].tolist()) == [0, 1, 2, 3]
    assert len(set(drawn[8:].tolist())) == 2


def test_weight_of_gradients() -> None:
    """Momentum 0.5, three steps: 1 + .5 + .25, 1 + .5 and 1."""
    assert weight(3, 0.5) == pytest.approx(4.25)
    assert weight(4, 0.0) == 4.0


def test_one_epochs_labels_fill_its_steps() -> None:
    """Two steps of two, momentum 1, so weights 2 and 1: class 0 twice in the first, 1 and 2 in the second.

    Σ w p = 1 for each of three classes, and Σ n w / B = 2, 1/2 and 1/2, which no other numbers give.
    """
    moved = torch.tensor([1.0, -0.5, -0.5])
    predicted = torch.full((3,), 1 / 3)
    plan = LocalPlan((2, 2), 0.1, 1.0)
    found = fill(predicted, moved, plan)
    assert found is not None and found.tolist() == [2, 1, 1]


def test_labels_of_one_epoch_of_steps_with_momentum() -> None:
    """On an untrained network, nearly all; each of several clients at least 7 of 8."""
    seen = trained(replace(EPOCHS, local_epochs=1, learning_rate=0.01), records=8, victims=6)
    wrong = []
    for observation, truth in zip(seen.observations, seen.labels, strict=True):
        plan = plan_of(observation, 8)
        found = step_labels(observation, ThreatModel(), seen.victim, 8, plan, generator=stream())
        counts = torch.minimum(found.bincount(minlength=10), truth.bincount(minlength=10))
        wrong.append(8 - int(counts.sum()))
    assert max(wrong) <= 1 and sum(wrong) <= 3


def test_counts_over_epochs_are_exact_on_an_untrained_network() -> None:
    seen = trained(records=8, victims=6)
    for observation, truth in zip(seen.observations, seen.labels, strict=True):
        plan = plan_of(observation, 8)
        found = step_labels(observation, ThreatModel(), seen.victim, 8, plan, generator=stream())
        assert found.tolist() == sorted(truth.tolist())


def test_images_come_out_of_several_epochs_and_none_out_of_noise() -> None:
    seen = trained()
    attack = LocalSteps(iterations=80)
    found = attack(seen.observations, ThreatModel(), seen.victim, generator=stream())
    assert all(answer.details["found by"] == "4 local steps" for answer in found)
    assert seen.median(found) > 20.0
    twins = [random_twin(one, stream(one.client)) for one in seen.observations]
    chance = attack(twins, ThreatModel(), seen.victim, generator=stream())
    assert seen.median(chance) < 12.0
    assert min(one.residual for one in chance) > max(one.residual for one in found)


class Sampled(nn.Module):
    """A stochastic layer behind a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread, self.head = nn.Linear(64, 24), nn.Linear(64, 24), nn.Linear(24, 10)
        self.sample = GaussianSample()

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        outputs: Tensor = self.head(self.sample(self.mean(x), self.spread(x)))
        return outputs


@pytest.mark.parametrize(
    "attack",
    [
        LocalSteps(iterations=4),
        LocalSteps(iterations=4, order="copies"),
        TrainingClient(iterations=4, restarts=1),
    ],
)
def test_stochastic_layers_give_their_mean(attack: Attack) -> None:
    data = Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, source="scikit-learn")
    config = replace(EPOCHS, mode="eval")  # a client in training mode would need a rule that draws
    seen = observe(Sampled, data, config, victims=1, records=4, seed=0)
    found = attack(seen.observations, ThreatModel(), seen.victim, generator=stream())[0]
    assert found.refusal is None
    assert found.images is not None and found.images.shape == (4, 1, 8, 8)


def test_the_published_order_too_and_one_by_one_as_together() -> None:
    seen = trained()
    attack = LocalSteps(iterations=60, order="copies")
    together = attack(seen.observations, ThreatModel(), seen.victim, generator=stream())
    alone = attack(seen.observations[1:], ThreatModel(), seen.victim, generator=stream())[0]
    images = together[1].images
    assert images is not None and alone.images is not None
    assert images.shape == (4, 1, 8, 8)
    assert torch.allclose(images, alone.images, atol=1e-2)
    assert seen.median(together) > 12.0


@pytest.mark.parametrize("denied", ["learning_rate", "local_steps", "momentum", "batch_size"])
def test_refuses_by_name_what_it_is_denied(denied: str) -> None:
    seen = trained(victims=1)
    with pytest.raises(MissingKnowledge, match=denied):
        LocalSteps()(seen.observations, ThreatModel(**{denied: False}), seen.victim, generator=stream())


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"sampling": "poisson"}, "Poisson"), ({"momentum": None}, "cannot be simulated")],
)
def test_clients_that_cannot_be_simulated(change: dict[str, str | None], reason: str) -> None:
    observation = trained(victims=1).observations[0]
    odd = replace(observation, config=replace(observation.config, **change))  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match=reason):
        plan_of(odd, 4)


def test_a_sum_is_no_clients_training() -> None:
    observation: Observation = trained(victims=1).observations[0]
    with pytest.raises(NotApplicable, match="sum of 2"):
        plan_of(replace(observation, parts=(Part(0, 1), Part(1, 1))), 4)


def test_the_plan_is_the_configurations() -> None:
    observation = trained(victims=1).observations[0]
    assert plan_of(observation, 4) == LocalPlan((2, 2, 2, 2), 0.02, 0.9, 0.0)


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [({"order": "guessed"}, "order"), ({"step": 0.0}, "step"), ({"agreement": -1.0}, "agreement")],
)
def test_parameters_out_of_range(parameters: dict[str, object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        LocalSteps(**parameters)  # type: ignore[arg-type]
