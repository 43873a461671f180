"""Clients that train under a defense, in their real loop, and what a server sees of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attack_scene import IMAGES, LABELS, Scene, convnet
from torch import nn

from fedlab.audit.defense import Defense
from fedlab.audit.observation import KnownConfig, Observation
from fedlab.audit.victim import Victim
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.config import Mode
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy, initialise


def digits() -> Dataset:
    return Dataset("digits", IMAGES.numpy(), LABELS.numpy(), 10, "scikit-learn")


def defended(
    defense: Defense,
    network: Callable[[], nn.Module] = convnet,
    *,
    victims: int = 2,
    batch: int = 1,
    mode: Mode = "eval",
    seed: int = 0,
    learning_rate: float = 0.1,
) -> Scene:
    """Clients of `batch` records each that take one step on them all; the victim as its attacker knows it."""
    config = ClientConfig(mode=mode, batch_size=batch, local_steps=1, learning_rate=learning_rate)
    model = FunctionalModel(initialise(defense.network(network), seed), (1, 8, 8))
    rule = defense.local_rule(LocalRule(), Federation((batch,) * victims, 1, config, victims))
    training = LocalTraining(model, cross_entropy, digits(), rule, config, seed)
    order = np.random.default_rng(seed).permutation(len(IMAGES))
    owners = [order[start : start + batch] for start in range(0, victims * batch, batch)]
    state = model.state()
    plans = [plan_batches(batch, config, seed, 1, client, 0) for client in range(victims)]
    jobs = [ClientJob(client, 1, state, {}, owners[client], plans[client]) for client in range(victims)]
    result = training(jobs)
    before, buffers = model.parameters_of(state), model.buffers_of(state)
    observations = [
        Observation(
            round=1,
            client=client,
            before=before,
            update={name: result.state[name][client] - before[name] for name in before},
            buffers_before=buffers,
            buffers_after=buffers,
            config=KnownConfig.all_of(config),
            examples=batch,
        )
        for client in range(victims)
    ]
    victim = Victim(model, cross_entropy, (1, 8, 8), 10, disclosure=defense.disclosure(model))
    return Scene(victim, observations, [IMAGES[ids] for ids in owners], [LABELS[ids] for ids in owners])
