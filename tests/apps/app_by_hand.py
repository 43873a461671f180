"""Apps that never were: what would be left of clients that train a network, made by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedlab.apps.contract import Optimizer, Ran, Recording, Sight, Step

Batch = tuple[Tensor, Tensor]


def arrays_of(network: nn.Module, names: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The state dict as a message has it."""
    state = {key: value.detach().clone().numpy() for key, value in network.state_dict().items()}
    return names(state)


def numbered(state: dict[str, Any]) -> dict[str, Any]:
    """As a NumPyClient's list."""
    return {str(place): value for place, value in enumerate(state.values())}


def as_named(state: dict[str, Any]) -> dict[str, Any]:
    """As a state dict."""
    return state


def ran_by_hand(
    network: nn.Module,
    clients: Sequence[Sequence[Batch]],
    *,
    training: bool = True,
    names: Callable[[dict[str, Any]], dict[str, Any]] = as_named,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    settings: Mapping[str, Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    called: str = "CrossEntropyLoss",
    configuration: Mapping[str, Any] | None = None,
    own: Sequence[str] = (),
    after: Callable[[dict[str, Any]], dict[str, Any]] = lambda arrays: arrays,
) -> Ran:
    """One round in which each client trains `network` on its batches.

    Args:
        names: how state dicts become messages.
        own: tensors that stay with the clients, each of whom has other ones.
        after: what happens to a reply's arrays behind the training.
    """
    given = {"lr": 0.1, **(settings or {})}
    sights, recordings = [], {}
    for client, batches in enumerate(clients):
        mine = copy.deepcopy(network).train(training)
        with torch.no_grad():
            for name in own:
                mine.state_dict()[name].add_(client + 1.0)

        def sent(mine: nn.Module = mine) -> dict[str, Any]:
            return arrays_of(mine, lambda state: names({key: state[key] for key in state if key not in own}))

        before, first = sent(), copy.deepcopy(mine)
        stepper = optimizer(mine.parameters(), **given)
        for inputs, targets in batches:
            stepper.zero_grad()
            loss(mine(inputs), targets).backward()
            stepper.step()
        used = sum(len(inputs) for inputs, _ in batches)
        sights.append(Sight(1, client, before, after(sent()), {}, {"num-examples": used}))
        group = {key: value for key, value in stepper.param_groups[0].items() if key != "params"}
        recordings[1, client] = Recording(
            network=first,
            training=training,
            optimizer=Optimizer(type(stepper).__name__, group),
            loss=called,
            steps=[Step(inputs, targets) for inputs, targets in batches],
        )
    return Ran(
        sights=sights,
        recordings=recordings,
        metrics={1: {"accuracy": 0.5, "loss": 1.0}},
        configuration=configuration or {"lr": 0.1, "batch-size": 4},
        rounds=1,
        replies=len(sights),
        failed=0,
        failure="",
        output=["hello"],
    )


def batches(sizes: Sequence[int], shape: Sequence[int], *, seed: int = 0, classes: int = 10) -> list[Batch]:
    """Batches of bytes from 0 to 255, as torchvision's ToTensor gives them, and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(256, (size, *shape), generator=generator).float() / 255.0,
            torch.randint(classes, (size,), generator=generator),
        )
        for size in sizes
    ]
