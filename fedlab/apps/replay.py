"""Whether an update is what the recorded steps give: the client's training, done once more and compared.

The strongest check that there is on what was recorded: network, mode, batches, loss, optimizer and its
settings all have to be right for the two to agree to the rounding of float32 weights. Where they do not, the
update holds something that was not recorded: a penalty, a learning rate that changed, a mechanism behind the
training.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab.apps.contract import Arrays, Recording
from fedlab.apps.spoken import changed
from fedlab.tasks.task import cross_entropy

ROUNDING = 2.0**-24
"""Relative error of one float32 number."""
CLOSE = 1e-3
"""Distance, relative to the update, below which two trainings are the same one."""
MOST_STEPS = 500
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Comparison:
    """How far a replayed update is from the real one, relative to its norm; None if it could not be replayed.

    Attributes:
        agrees: whether rounding explains the distance; words: the finding, a clause.
    """

    distance: float | None
    agrees: bool
    words: str


def compare(recording: Recording, before: Arrays, after: Arrays, names: Mapping[str, str]) -> Comparison:
    """Replay what one client did, and hold it against what it sent; `names` are of tensors, by array."""
    made = _replayed(recording)
    if isinstance(made, str):
        return Comparison(None, False, f"not compared with the update: {made}")
    start, end = made
    gap = size = weights = 0.0
    for key, name in names.items():
        if name not in start or not start[name].is_floating_point():
            continue
        sent = torch.as_tensor(after[key]).double() - torch.as_tensor(before[key]).double()
        ours = (end[name].double() - start[name].double()).reshape(sent.shape)
        gap += float((sent - ours).square().sum())
        size += float(sent.square().sum())
        weights += float(end[name].double().square().sum())
    if size == 0.0:
        return Comparison(None, False, "not compared with the update, which is zero")
    distance = math.sqrt(gap / size)
    floor = 8.0 * ROUNDING * math.sqrt(weights / size) * max(1, len(recording.steps))
    count = len(recording.steps)
    steps, give, differ = f"{count} recorded steps", "give", "do not give"
    if count == 1:
        steps, give, differ = "one recorded step", "gives", "does not give"
    if distance <= CLOSE + floor:
        return Comparison(distance, True, f"the {steps} {give} the update that was sent, {_near(distance)}")
    return Comparison(
        distance,
        False,
        f"the {steps} {differ} the update that was sent: {100 * distance:.3g} % of it is something else",
    )


def _near(distance: float) -> str:
    return f"to {distance:.1g} of its norm" if distance else "bit for bit"


def draws(network: nn.Module) -> bool:
    """Whether torch's own dropout layers drop anything in training mode."""
    return any(isinstance(one, RANDOM) and float(one.p) > 0 for one in network.modules())


def _replayed(recording: Recording) -> tuple[dict[str, Tensor], dict[str, Tensor]] | str:
    """The state before and after, or why there is none."""
    if recording.network is None or recording.optimizer is None or not recording.steps:
        return "no optimizer was seen to step"
    if any(step.targets is None for step in recording.steps):
        return "no loss was seen"
    if unusual := changed([recording]):
        return f"the loss has {' and '.join(unusual)}, and a plain cross entropy is what is repeated"
    if len(recording.steps) > MOST_STEPS:
        return f"{len(recording.steps)} steps are more than the {MOST_STEPS} that are replayed"
    if recording.training and draws(recording.network):
        return "the clients draw dropout masks"
    factory = getattr(torch.optim, recording.optimizer.name, None)
    if factory is None:
        return f"torch.optim has no {recording.optimizer.name}"
    network = copy.deepcopy(recording.network)
    network.train(recording.training)
    start = {name: value.detach().clone() for name, value in network.state_dict().items()}
    known = inspect.signature(factory).parameters
    settings = {key: value for key, value in recording.optimizer.settings.items() if key in known}
    learned = [value for value in network.parameters() if value.requires_grad]
    try:
        optimizer = factory(learned, **settings)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            for step in recording.steps:
                optimizer.zero_grad()
                outputs, targets = network(step.inputs), step.targets
                if targets is not None:
                    cross_entropy(outputs, targets).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    except Exception as error:  # the network is somebody else's
        return f"it cannot be run again ({type(error).__name__}: {str(error)[:200]})"
    return start, dict(network.state_dict())
