"""What the tests of attacks attack: clients that take one step of SGD on real digits, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedlab.audit.attack import Reconstruction
from fedlab.audit.metrics import match, psnr
from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.clients.config import ClientConfig, Mode
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise

_digits = load_digits()
IMAGES = torch.tensor(_digits.images, dtype=torch.float32).unsqueeze(1) / 16
LABELS = torch.tensor(_digits.target)


def mlp(
    p: float = 0.5, width: int = 256, first_bias: bool = True, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Module:
    """64 -> width -> width -> 10, dropout after each activation: the quickstart's network at width 256."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width, bias=first_bias),
        activation(),
        nn.Dropout(p),
        nn.Linear(width, width),
        activation(),
        nn.Dropout(p),
        nn.Linear(width, 10),
    )


def small_mlp() -> nn.Module:
    return mlp(width=48)


def convnet() -> nn.Module:
    """Two convolutions with sigmoids, a linear head."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@dataclass(frozen=True)
class Scene:
    """A network, and what a server saw of some clients of it, with the truth kept apart."""

    victim: Victim
    observations: list[Observation]
    images: list[Tensor]
    labels: list[Tensor]

    def psnr(self, answers: Sequence[Reconstruction]) -> Tensor:
        """(victims, B) PSNR after one-to-one matching."""
        rows = []
        for answer, truth in zip(answers, self.images, strict=True):
            assert answer.images is not None, answer.refusal
            order = match(answer.images, truth)
            rows.append(psnr(torch.stack([answer.images[j] for j in order if j is not None]), truth))
        return torch.stack(rows)

    def median(self, answers: Sequence[Reconstruction]) -> float:
        return float(self.psnr(answers).median())

    def granted(self) -> list[Observation]:
        """The observations with their labels, as a threat model that grants them hands them out."""
        pairs = zip(self.observations, self.labels, strict=True)
        return [replace(observation, labels=labels) for observation, labels in pairs]

    def with_update(self, change: Callable[[State], State], victim: int = 0) -> Observation:
        """One observation with a changed update."""
        observation = self.observations[victim]
        return replace(observation, update=change(dict(observation.update)))


def scene(
    network: Callable[[], nn.Module] = small_mlp,
    *,
    victims: int = 4,
    batch: int = 1,
    mode: Mode = "train",
    seed: int = 0,
    learning_rate: float = 0.1,
) -> Scene:
    """Clients that took one step from freshly initialised weights; update = after - before, in float32."""
    model = FunctionalModel(initialise(network, seed), (1, 8, 8))
    victim = Victim(model, cross_entropy, (1, 8, 8), 10)
    generator = torch.Generator().manual_seed(seed)
    state = model.state()
    before, buffers = model.parameters_of(state), model.buffers_of(state)
    config = ClientConfig(mode=mode, batch_size=batch, local_steps=1, learning_rate=learning_rate)
    observations, images, labels = [], [], []
    for client in range(victims):
        ids = torch.randperm(len(IMAGES), generator=generator)[:batch]
        masks = model.draw_masks(batch, generator) if mode == "train" else None
        slope = victim.gradient(
            before, buffers, IMAGES[ids], LABELS[ids], training=mode == "train", masks=masks or None
        )
        update = {name: (before[name] - learning_rate * slope[name]) - before[name] for name in before}
        observations.append(Observation(1, client, before, update, buffers, buffers, config, examples=batch))
        images.append(IMAGES[ids])
        labels.append(LABELS[ids])
    return Scene(victim, observations, images, labels)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
