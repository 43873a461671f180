"""Clients that train with fedlab's own code on real images, what their server sees, and the truth apart.

What an attack gets is the float32 difference of the weights before and after, as a server computes it; never
a gradient.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedlab import plugins, seeds
from fedlab.audit import KnownConfig, Observation, Proxy, Reconstruction, Victim
from fedlab.audit.metrics import match, psnr
from fedlab.clients import ClientConfig, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import LocalRule
from fedlab.tasks import Dataset, FunctionalModel, Task, initialise


@dataclass(frozen=True)
class Named:
    """A data set by name, as the plugin registry wants it."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A network, what a server saw of some clients of it, and the records that they used."""

    victim: Victim
    observations: list[Observation]
    images: list[Tensor]
    labels: list[Tensor]

    def psnrs(self, answers: Sequence[Reconstruction]) -> list[float]:
        """PSNR of every true image against its match; 0 where the attack has no answer."""
        found: list[float] = []
        for answer, truth in zip(answers, self.images, strict=True):
            if answer.images is None:
                found += [0.0] * len(truth)
                continue
            order = match(answer.images, truth)
            found += [
                0.0 if j is None else float(psnr(answer.images[j : j + 1], truth[i : i + 1]))
                for i, j in enumerate(order)
            ]
        return found

    def median(self, answers: Sequence[Reconstruction]) -> float:
        """Median over all true images, in dB."""
        return statistics.median(self.psnrs(answers))

    def granted(self) -> list[Observation]:
        """The observations with their labels, for attackers who are granted them."""
        pairs = zip(self.observations, self.labels, strict=True)
        return [replace(one, labels=labels) for one, labels in pairs]


def dataset(name: str) -> tuple[Dataset, Dataset]:
    """(train, test) by name: digits, mnist, fashion-mnist, cifar-samples, photos."""
    train, test = plugins.build("datasets", Named(name, {}))
    return train, test


def observe(
    network: Callable[[], nn.Module],
    data: Dataset,
    config: ClientConfig,
    *,
    victims: int,
    records: int,
    seed: int,
    proxy: int = 0,
    rule: LocalRule | None = None,
) -> Scene:
    """Let `victims` clients of `records` records each train from the same initial weights.

    What a local rule keeps with the clients is drawn for each of them, and the server does not see it.
    Records are drawn without replacement where there are enough; `proxy` more are the attacker's own.
    """
    model = FunctionalModel(initialise(network, seed), data.shape)
    task = Task(data, data, network)
    state = model.state()
    order = seeds.numpy_generator(seed, "benchmark").permutation(len(data))
    taken = np.resize(order, victims * records).reshape(victims, records)
    own = taken if victims * records <= len(data) else np.stack([np.unique(one) for one in taken])
    rule = rule or LocalRule()
    training = LocalTraining(model, task.loss, data, rule, config, seed, stacked=False)
    personal = frozenset(rule.personal(model.parameters_of(state), seeds.torch_generator(seed, "personal")))
    sent = {name: value for name, value in model.parameters_of(state).items() if name not in personal}
    observations, images, labels = [], [], []
    for client, mine in enumerate(own):
        mine = np.sort(mine)
        plan = plan_batches(len(mine), config, seed, 1, client)
        kept = rule.personal(model.parameters_of(state), seeds.torch_generator(seed, "personal", client))
        after = training([ClientJob(client, 1, state | kept, {}, mine, plan)]).state
        after = {name: value[0] for name, value in after.items()}
        observations.append(
            Observation(
                round=1,
                client=client,
                before=sent,
                update={name: after[name] - value for name, value in sent.items()},
                buffers_before=model.buffers_of(state),
                buffers_after=model.buffers_of(after),
                config=KnownConfig.all_of(config),
                examples=len(mine),
            )
        )
        used = np.unique(mine[np.concatenate(plan)])
        images.append(data.images(used))
        labels.append(data.labels(used))
    rest = order[victims * records :][:proxy]
    held = Proxy(data.images(rest), data.labels(rest)) if proxy else None
    victim = Victim(model, task.loss, data.shape, data.classes, personal, held)
    return Scene(victim, observations, images, labels)
