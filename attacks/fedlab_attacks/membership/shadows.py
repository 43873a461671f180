"""Shadow clients: what the attacker's own data make of the model that the server sent, many in one graph.

A shadow client holds as many records as the target, half of them (at most half of the candidates) drawn among
the candidates, the others from the proxy data. Over all shadows each candidate is drawn equally often, give
or take one. Shadow clients train as the target was told to: batch size, steps, learning rate, momentum,
weight decay, its mode as far as that is known; with dropout masks of their own: nobody knows the client's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedlab.audit.membership import Candidates
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Proxy, Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.membership.measures import CHUNK, pieces, sent

VALUES = 1 << 25
"""Numbers that the shadows' parameters may take at once."""


@dataclass(frozen=True)
class Holdings:
    """Who holds what.

    Attributes:
        records: (S, n) positions in candidates followed by proxy data.
        inside: (S, N) whether a shadow holds a candidate.
    """

    records: Tensor
    inside: Tensor


def holdings(
    shadows: int, size: int, candidates: int, proxies: int, *, generator: torch.Generator
) -> Holdings:
    """Share the candidates out among shadow clients of `size` records.

    Proxy records serve more than once where a shadow client needs more than there are.

    Raises:
        NotApplicable: no proxy data, or too few records to hold one of each kind.
    """
    mine = min(candidates // 2, size // 2)
    if mine < 1:
        raise NotApplicable(
            f"a client of {size} records and {candidates} candidates: a shadow client of that size must hold"
            " some candidates and some records that are none; expected at least 2 of each"
        )
    if proxies < 1:
        raise NotApplicable("no proxy record is left to fill shadow clients with; grant more proxy data")
    drawn = _dealt(shadows, mine, candidates, generator)
    filled = candidates + torch.stack([_filled(size - mine, proxies, generator) for _ in range(shadows)])
    inside = torch.zeros(shadows, candidates, dtype=torch.bool).scatter_(1, drawn, True)
    return Holdings(torch.cat([drawn, filled], dim=1), inside)


def _filled(wanted: int, proxies: int, generator: torch.Generator) -> Tensor:
    """(wanted,) positions of proxy records, each as often as any other, give or take one."""
    turns = math.ceil(wanted / proxies)
    return torch.cat([torch.randperm(proxies, generator=generator) for _ in range(turns)])[:wanted]


def _dealt(shadows: int, mine: int, candidates: int, generator: torch.Generator) -> Tensor:
    """(S, mine) distinct candidates each, every one in equally many rows, give or take one.

    Each row takes those that were taken least often so far, ties broken by lot.
    """
    taken, rows = torch.zeros(candidates), []
    for _ in range(shadows):
        lot = torch.rand(candidates, generator=generator, dtype=torch.float64)
        row = (taken.double() + lot).argsort()[:mine]
        taken[row] += 1
        rows.append(row)
    return torch.stack(rows)


def shadow_logits(
    observation: Observation,
    candidates: Candidates,
    proxy: Proxy,
    victim: Victim,
    threat: ThreatModel,
    held: Holdings,
    *,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """(shadows, N, classes) of the candidates after each shadow's training, chunk by chunk of shadows."""
    images = torch.cat([candidates.images, proxy.images])
    labels = torch.cat([candidates.labels, proxy.labels])
    start = sent(observation)
    size = max(1, VALUES // max(1, 3 * victim.model.parameter_count))
    answers = vmap(lambda state, x: victim.model(state, x, training=False)[0], in_dims=(0, None))
    for records in pieces(held.records, size):
        trained = _trained(observation, images, labels, records, start, victim, threat, generator)
        with torch.no_grad():
            found = [answers(trained, x) for x in pieces(candidates.images, CHUNK)]
        yield torch.cat(found, dim=1)


def _trained(
    observation: Observation,
    images: Tensor,
    labels: Tensor,
    records: Tensor,
    start: State,
    victim: Victim,
    threat: ThreatModel,
    generator: torch.Generator,
) -> State:
    """Parameters and buffers of each shadow after training, with a leading axis."""
    model, config = victim.model, observation.config
    rate, momentum = config.learning_rate or 0.0, config.momentum or 0.0
    decay = config.weight_decay or 0.0
    training = config.mode == "train" and (threat.grants("dropout_rate") or not model.dropout_rates)

    def loss(values: State, rest: State, x: Tensor, y: Tensor, masks: State) -> tuple[Tensor, State]:
        outputs, after = model({**rest, **values}, x, training=training, masks=masks or None)
        return victim.loss(outputs, y).mean(), {**rest, **after}

    step = vmap(grad(loss, has_aux=True))
    learned = {name: start[name].expand(len(records), *start[name].shape) for name in victim.shared}
    rest = {n: v.expand(len(records), *v.shape) for n, v in start.items() if n not in learned}
    velocity = {name: torch.zeros_like(value) for name, value in learned.items()}
    for picks in _batches(observation, records, generator):
        masks: State = {}
        if training and model.mask_shapes:
            flat = model.draw_masks(picks.numel(), generator)
            masks = {name: mask.view(*picks.shape, *mask.shape[1:]) for name, mask in flat.items()}
        slope, rest = step(learned, rest, images[picks], labels[picks], masks)
        velocity = {n: momentum * v + slope[n] + decay * learned[n] for n, v in velocity.items()}
        learned = {name: value - rate * velocity[name] for name, value in learned.items()}
    return {**rest, **learned}


def _batches(observation: Observation, records: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """(S, B) records of each shadow, step by step: epochs over fresh orders, the last short batch kept."""
    config, (shadows, held) = observation.config, records.shape
    size = min(config.batch_size or held, held)
    per_epoch = math.ceil(held / size)
    left = config.local_steps if config.local_steps is not None else (config.local_epochs or 1) * per_epoch
    while left > 0:
        order = torch.rand(shadows, held, generator=generator).argsort(dim=1)
        yield from [part.T for part in pieces(records.gather(1, order).T, size)[:left]]
        left -= per_epoch
