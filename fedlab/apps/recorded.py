"""From what an app did to what the audit is made of: observations, records, and who used which of them when.

Records are numbered as they were met; one that was used again (the same numbers, the same label) keeps its
number. Pixels are those in [0, 1] behind what the network was fed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.apps.architecture import PREFIX
from fedlab.apps.contract import Arrays, Ran, Sight
from fedlab.apps.facts import Key, View, watched
from fedlab.apps.meaning import as_weights
from fedlab.apps.messages import paired
from fedlab.apps.schedule import examples
from fedlab.audit import KnownConfig, Observation
from fedlab.tasks import Dataset, FunctionalModel, State, Task

Steps = list[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Used:
    """The records that watched clients trained on.

    Attributes:
        data: each of them once; steps: their ids, by (round, client) and step, in the order of the batch.
    """

    data: Dataset
    steps: Mapping[Key, Steps]


def used(ran: Ran, view: View, name: str) -> Used:
    """All records of the clients that were watched, each once."""
    ids: dict[bytes, int] = {}
    images: list[Tensor] = []
    labels: list[int] = []
    steps: dict[Key, Steps] = {}
    for sight, recording in watched(ran):
        mine = steps.setdefault((sight.round, sight.client), [])
        for step in recording.steps:
            pixels = view.pixels.unit(step.inputs.detach().float().reshape(-1, *view.shape))
            targets = torch.zeros(len(pixels)) if step.targets is None else step.targets
            batch = []
            for image, label in zip(pixels, targets.tolist(), strict=True):
                digest = hashlib.sha256(image.contiguous().numpy().tobytes() + str(label).encode()).digest()
                if digest not in ids:
                    ids[digest] = len(images)
                    images.append(image)
                    labels.append(int(label))
                batch.append(ids[digest])
            mine.append(np.array(batch, dtype=np.int64))
    data = Dataset(
        name=f"{name}-records",
        x=torch.stack(images).numpy(),
        y=np.array(labels, dtype=np.int64),
        classes=view.classes,
        source="what the app's clients fed their networks, recorded while they trained",
    )
    return Used(data, steps)


def task_of(view: View, data: Dataset) -> Task:
    """What the app's clients learn. There are no other records: held-out data stayed with the app."""
    network = view.network

    def factory() -> torch.nn.Module:
        return copy.deepcopy(network)

    factory.__name__ = type(network.network).__name__
    return Task(train=data, test=data, network=factory)


def observations(
    ran: Ran, told: Mapping[Key, KnownConfig], view: View, model: FunctionalModel
) -> list[Observation]:
    """What the server saw, in the words of the network that takes pixels; of watched clients."""
    held = model.state()
    return [
        _observation(as_weights(sight, view.meaning), told[sight.round, sight.client], view, model, held)
        for sight, _ in watched(ran)
    ]


def _observation(
    sight: Sight, told: KnownConfig, view: View, model: FunctionalModel, held: State
) -> Observation:
    before, after = (_named(arrays, view, held) for arrays in (sight.before, sight.after))
    learned = [name for name in model.parameter_names if name in before]
    return Observation(
        round=sight.round,
        client=sight.client,
        before={name: before[name] for name in learned},
        update={name: after[name] - before[name] for name in learned},
        # What no message carries is as the server's own copy has it, before and after.
        buffers_before={name: before.get(name, held[name]) for name in model.buffer_names},
        buffers_after={name: after.get(name, held[name]) for name in model.buffer_names},
        config=told,
        examples=examples(sight),
    )


def _named(arrays: Arrays, view: View, held: State) -> State:
    """A message's arrays by the names of the network's tensors; what it has no use for is left out."""
    found = {}
    for key, value in arrays.items():
        name = PREFIX + view.names[key] if key in view.names else ""
        if name in held:
            like = held[name]
            found[name] = torch.tensor(np.asarray(value)).to(like.dtype).reshape(like.shape)
    return found


def bare(sight: Sight, told: KnownConfig) -> Observation:
    """An update by the names of its message, where no network is known: for who looks at numbers alone."""
    sight = paired(sight)
    both = {
        key: (torch.tensor(np.asarray(value)), torch.tensor(np.asarray(sight.after[key])))
        for key, value in sight.before.items()
    }
    learned = {key: pair for key, pair in both.items() if pair[0].is_floating_point()}
    rest = {key: pair for key, pair in both.items() if key not in learned}
    return Observation(
        round=sight.round,
        client=sight.client,
        before={key: start.float() for key, (start, _) in learned.items()},
        update={key: end.float() - start.float() for key, (start, end) in learned.items()},
        buffers_before={key: start for key, (start, _) in rest.items()},
        buffers_after={key: end for key, (_, end) in rest.items()},
        config=told,
        examples=examples(sight),
    )


def owners(steps: Mapping[Key, Steps], clients: Sequence[int]) -> list[NDArray[np.int64]]:
    """Record ids by client, of all rounds; none of clients that were not watched."""
    count = max(clients, default=-1) + 1
    mine: list[list[NDArray[np.int64]]] = [[] for _ in range(count)]
    for (_, client), batches in steps.items():
        mine[client] += batches
    return [np.unique(np.concatenate(one)) if one else np.array([], dtype=np.int64) for one in mine]
