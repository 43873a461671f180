"""The pull-back through a hypernetwork's heads: private parameters, their gradient, and then the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, stream
from fedlab_attacks.exact.private_network import pulled_back
from fedlab_attacks.exact.pullback import HypernetworkPullback
from torch import Tensor, nn

from fedlab.audit.metrics import psnr
from fedlab.audit.observation import KnownConfig, Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise
from fedlab.tasks.hypernetwork import PERSONAL, GeneratedNetwork

RATE, DECAY = 0.1, 5e-3


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.LeakyReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)
    )


def pooled() -> nn.Module:
    """Convolution, pooling, a biased linear layer, a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 32),
        nn.LeakyReLU(),
        nn.Linear(32, 10),
    )


def headless() -> nn.Module:
    """Its only linear layer is the private classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@dataclass(frozen=True)
class Client:
    victim: Victim
    observation: Observation
    images: Tensor
    private: State
    slopes: State


def client(network: Callable[[], nn.Module], batch: int = 1, seed: int = 0, mip: bool = False) -> Client:
    """One step on the hypernetwork, as HyperFL takes it: clipped nowhere, with weight decay."""
    model = FunctionalModel(
        initialise(lambda: GeneratedNetwork(network(), 8, [16], mip=mip), seed), (1, 8, 8)
    )
    generator = stream(seed)
    parameters = model.parameters_of(model.state())
    personal = frozenset(name for name in parameters if name.startswith(PERSONAL))
    own = {
        name: 0.3 * torch.randn(value.shape, generator=generator) if name in personal else value
        for name, value in parameters.items()
    }
    victim = Victim(model, cross_entropy, (1, 8, 8), 10, personal)
    ids = torch.randperm(len(IMAGES), generator=generator)[:batch]
    slopes = victim.gradient(own, {}, IMAGES[ids], LABELS[ids], training=True)
    before = {name: value for name, value in parameters.items() if name not in personal}
    update = {name: (value - RATE * (slopes[name] + DECAY * value)) - value for name, value in before.items()}
    config = KnownConfig(mode="train", batch_size=batch, local_epochs=2, learning_rate=RATE)
    observation = Observation(1, 0, before, update, {}, {}, config, examples=batch)
    return Client(victim, observation, IMAGES[ids], own, slopes)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("mip", [False, True])
def test_private_parameters_and_their_gradient_follow(batch: int, mip: bool) -> None:
    """θ as the client generated it, ∂L/∂θ, and the decay that nobody told; for any batch."""
    one = client(mlp, batch, mip=mip)
    pulled = pulled_back(one.observation, one.victim)
    net = one.victim.model.net
    assert isinstance(net, GeneratedNetwork)
    theta = torch.func.functional_call(
        net.hypernetwork, _under(one.private, "hypernetwork."), (one.private["embedding"],)
    )
    assert set(pulled.observation.before) == set(theta) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    for name, value in theta.items():
        assert relative(pulled.observation.before[name], value) < 1e-3
        slope = one.slopes[f"hypernetwork.heads.{name.replace('.', '-')}.bias"]
        assert relative(pulled.observation.update[name].flatten(), -RATE * slope) < 1e-3
    assert pulled.decay == pytest.approx(RATE * DECAY, rel=1e-3) and pulled.beyond < 1e-3


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def attack(one: Client, iterations: int = 150, observation: Observation | None = None):  # type: ignore[no-untyped-def]
    run = HypernetworkPullback(iterations=iterations)
    (answer,) = run([observation or one.observation], ThreatModel(), one.victim, generator=stream())
    return answer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_biased_first_layer_gives_the_record_in_closed_form(seed: int) -> None:
    """No embedding, no classifier, no label; weight decay is on."""
    one = client(mlp, seed=seed)
    answer = attack(one)
    assert float(psnr(answer.images, one.images)) > 70.0
    assert answer.certificates[-1].proves and answer.certificates[-1].method == "layer peel"


def test_pooling_is_matched_through_features_and_gradient() -> None:
    one = client(pooled)
    answer = attack(one)
    assert float(psnr(answer.images, one.images)) > 16.0  # the mean digit scores 11.5
    assert answer.details["found by"] == "matching features and their gradient"
    assert not any(one.proves for one in answer.certificates)


def test_without_a_generated_linear_layer_the_cotangent_is_free() -> None:
    one = client(headless)
    answer = attack(one)
    assert float(psnr(answer.images, one.images)) > 14.0
    assert answer.details["found by"] == "matching with a free cotangent"


def test_a_batch_is_answered_with_as_many_images() -> None:
    one = client(pooled, batch=3)
    answer = attack(one, iterations=20)
    assert answer.images is not None and answer.images.shape == (3, 1, 8, 8)
    assert not any(one.proves for one in answer.certificates)


@pytest.mark.parametrize("network", [mlp, pooled, headless])
def test_noise_is_refused(network: Callable[[], nn.Module]) -> None:
    one = client(network)
    answer = attack(one, observation=random_twin(one.observation, stream(1)))
    assert answer.images is None and "no hidden code explains" in str(answer.refusal)
    assert [found.verdict for found in answer.certificates] == ["not applicable"]


def test_a_step_that_taught_nothing_but_decay_is_refused() -> None:
    one = client(mlp)
    before = one.observation.before
    update = {name: (value - RATE * DECAY * value) - value for name, value in before.items()}
    answer = attack(one, observation=replace(one.observation, update=update))
    assert answer.images is None and not any(found.proves for found in answer.certificates)


def test_other_networks_are_not_applicable() -> None:
    model = FunctionalModel(initialise(mlp, 0), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    state = model.state()
    with pytest.raises(NotApplicable, match="do not come out of a hypernetwork"):
        pulled_back(Observation(1, 0, state, state, {}, {}, KnownConfig()), victim)


class Noted(HypernetworkPullback):
    """Keeps where each descent began, how long it was and how far off it ended."""

    def _descend(self, mismatch, start, iterations, ticker):  # type: ignore[no-untyped-def]
        images, residual = super()._descend(mismatch, start, iterations, ticker)
        self.noted = [*getattr(self, "noted", []), (start[0], iterations, residual, images)]
        return images, residual


@pytest.mark.parametrize("network", [pooled, headless])
def test_the_start_with_the_least_mismatch_is_descended_from(network: Callable[[], nn.Module]) -> None:
    """Three trials of a tenth of the iterations, then one in full, whose images and residual answer."""
    one = client(network)
    run = Noted(iterations=20, restarts=3)
    (answer,) = run([one.observation], ThreatModel(), one.victim, generator=stream())
    *trials, last = run.noted
    assert [iterations for _, iterations, _, _ in run.noted] == [2, 2, 2, 20]
    assert not trials[0][0].equal(trials[1][0]) and len({residual for _, _, residual, _ in trials}) == 3
    assert last[0].equal(min(trials, key=lambda trial: trial[2])[0])
    assert answer.images is not None and answer.images.equal(last[3]) and answer.residual == last[2]


def test_one_start_needs_no_trial() -> None:
    one = client(pooled)
    run = Noted(iterations=10, restarts=1)
    run([one.observation], ThreatModel(), one.victim, generator=stream())
    assert [iterations for _, iterations, _, _ in run.noted] == [10]


def test_a_client_is_attacked_alone_as_in_company() -> None:
    one = client(pooled)
    pair = [replace(one.observation, client=number) for number in (0, 1)]
    run = HypernetworkPullback(iterations=10, restarts=2)
    first, second = run(pair, ThreatModel(), one.victim, generator=stream())
    (alone,) = run(pair[1:], ThreatModel(), one.victim, generator=stream())
    assert first.images is not None and second.images is not None and alone.images is not None
    assert alone.images.equal(second.images) and not first.images.equal(second.images)


@pytest.mark.parametrize(
    "knob", [{"iterations": 0}, {"restarts": 0}, {"step": 0.0}, {"total_variation": -1.0}]
)
def test_parameters_out_of_range_are_usage_errors(knob: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        HypernetworkPullback(**knob)  # type: ignore[arg-type]
