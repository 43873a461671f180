"""What a threat model grants beside an update: masks as they were drawn, data of the same kind, or only sums.

All of it is recomputed from the seed tree, as the clients drew it; nothing was kept of it in training. Only
clients that are no clients of ours were watched, for there is no seed tree to ask (`Trained.used`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import seeds
from fedlab.audit import KnownConfig, Observation, Part, Proxy
from fedlab.audit.truth import Truth
from fedlab.clients import ClientConfig, plan_batches
from fedlab.clients.plan import place
from fedlab.experiment.cells import Trained
from fedlab.tasks import Dataset, State

PROXIES = 512
"""Records of its own that an attacker has at most."""
PIECE = 4096


def steps_of(trained: Trained, one: Observation | Part) -> list[NDArray[np.int64]]:
    """Ids of the records that one client used, step by step, in the order of the batch."""
    if trained.used is not None:
        return list(trained.used[one.round, one.client])
    config = trained.config
    if isinstance(one, Part):
        if one.epochs:
            config = replace(config, local_steps=None, local_epochs=one.epochs)
    elif one.config.local_epochs is not None:  # fewer, if it was a straggler
        config = replace(config, local_steps=one.config.local_steps, local_epochs=one.config.local_epochs)
    mine = trained.owners[one.client]
    plan = plan_batches(len(mine), config, trained.cell.seed, one.round, one.client, one.repeat)
    return [np.asarray(mine[positions], dtype=np.int64) for positions in plan]


def masks_of(trained: Trained, one: Observation) -> tuple[State, ...]:
    """The dropout masks of each local step, exactly as `fedlab.clients.batches` drew them.

    Rows are in ascending order of the record's id, as granted labels are: a gradient does not feel it. Empty
    for clients that drop nothing or drew masks of their own, and for a sum of several clients' updates.
    """
    model = trained.model
    if one.parts or trained.used is not None or trained.config.mode != "train" or not model.mask_shapes:
        return ()
    found = []
    for step, ids in enumerate(steps_of(trained, one)):
        where = place(one.round, one.client, one.repeat)
        drawn = model.draw_masks(len(ids), seeds.torch_generator(trained.cell.seed, "dropout", *where, step))
        order = torch.from_numpy(np.argsort(ids, kind="stable"))
        found.append({name: mask[order] for name, mask in drawn.items()})
    return tuple(found)


def proxy_of(trained: Trained, truths: Sequence[Truth]) -> Proxy | None:
    """Held-out records, drawn by the seed; none that a client has too.

    Where training records are too many to list, those that a victim has are left out. None if nothing is
    left, or if the records are no images.
    """
    train, test = trained.task.train, trained.task.test
    if not test.pixels:
        return None
    pieces = [truth.images for truth in truths]
    if isinstance(train, Dataset):
        pieces = [train.images(range(at, min(at + PIECE, len(train)))) for at in range(0, len(train), PIECE)]
    theirs = {digest for images in pieces for digest in _digests(images)}
    order = seeds.numpy_generator(trained.cell.seed, "proxy").permutation(len(test))
    fresh: list[int] = []
    for at in range(0, len(order), PROXIES):
        ids = order[at : at + PROXIES]
        digests = _digests(test.images(ids))
        fresh += [int(one) for one, digest in zip(ids, digests, strict=True) if digest not in theirs]
        if len(fresh) >= PROXIES:
            break
    chosen = fresh[:PROXIES]
    return Proxy(test.images(chosen), test.labels(chosen)) if chosen else None


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in images.contiguous().numpy()]


def folded(observations: Sequence[Observation], config: ClientConfig) -> list[Observation]:
    """The sum of each round's updates, as a server behind secure aggregation would see it.

    Updates are averaged by the number of records that their clients hold, as FedAvg does. What is a sum
    already stays as it is.
    """
    if any(one.parts for one in observations):
        return list(observations)
    rounds: dict[int, list[Observation]] = {}
    for one in observations:
        rounds.setdefault(one.round, []).append(one)
    return [_sum(rounds[round], config) for round in sorted(rounds)]


def _sum(group: Sequence[Observation], config: ClientConfig) -> Observation:
    group = sorted(group, key=lambda one: (one.client, one.repeat))
    weights = torch.tensor([float(one.examples or 1) for one in group], dtype=torch.float64)
    weights /= weights.sum()

    def mean(states: Sequence[State]) -> State:
        stacked = {name: torch.stack([one[name] for one in states]) for name in states[0]}
        return {
            name: torch.tensordot(weights, value.double(), 1).to(value.dtype)
            for name, value in stacked.items()
        }

    epochs = [0 if one.config.local_steps is not None else one.config.local_epochs or 0 for one in group]
    return replace(
        group[0],
        update=mean([one.update for one in group]),
        buffers_after=mean([one.buffers_after for one in group]),
        config=replace(KnownConfig.all_of(config), batch_size=len(group) * config.batch_size),
        examples=sum(one.examples or 0 for one in group) or None,
        repeat=0,
        parts=tuple(
            Part(one.client, one.round, one.repeat, told) for one, told in zip(group, epochs, strict=True)
        ),
    )
