"""What makes an observation unusable for any attack: named errors, told before an attack sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import Contradiction, ForeignObservation, UnusableUpdate


def check_observation(observation: Observation, victim: Victim) -> None:
    """Refuse what cannot be one of this victim's updates.

    Raises:
        ForeignObservation: a parameter is missing, unknown to the network, or of another shape.
        UnusableUpdate: the update or what the server sent is not finite, or the update is zero.
        Contradiction: labels that the network does not have, or a number of records below one.
    """
    model = victim.model
    foreign = sorted(observation.update.keys() - set(model.parameter_names))
    if foreign:
        raise ForeignObservation(
            f"the update has {foreign[0]!r}, which the network lacks; attack it with the network it is of"
        )
    for name in victim.shared:
        sent, change = observation.before.get(name), observation.update.get(name)
        if sent is None or change is None:
            raise ForeignObservation(
                f"the observation lacks the parameter {name!r}, which the network has; attack it with the"
                " network it is of"
            )
        expected = model.net.get_parameter(name).shape
        if sent.shape != expected or change.shape != expected:
            raise ForeignObservation(
                f"{name!r} was sent with shape {tuple(sent.shape)} and changed by {tuple(change.shape)}; the"
                f" network has {tuple(expected)}: attack it with the network it is of"
            )
    changes = [observation.update[name] for name in victim.shared]
    if not finite(changes):
        raise UnusableUpdate("the update is not finite; the guard turns such updates away in training")
    if not finite([observation.before[name] for name in victim.shared]):
        raise UnusableUpdate("the parameters that the server sent are not finite")
    if not any(bool(change.any()) for change in changes):
        raise UnusableUpdate("the update is zero: it says nothing about the data")
    labels = observation.labels
    if labels is not None and bool(((labels < 0) | (labels >= victim.classes)).any()):
        raise Contradiction(
            f"labels {labels.tolist()}; the network has the classes 0 to {victim.classes - 1}"
        )
    if observation.config.batch_size is not None and observation.config.batch_size < 0:
        raise Contradiction(f"batch_size = {observation.config.batch_size}; expected at least 0")


def finite(values: Sequence[Tensor]) -> bool:
    """Whether no element is NaN or infinite: extremes are, if any is, and are found without a mask."""
    extremes = [torch.stack(value.aminmax()) for value in values if value.numel()]
    return not extremes or bool(torch.cat(extremes).isfinite().all())
