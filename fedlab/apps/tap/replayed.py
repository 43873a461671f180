"""How well the images that an attack claims explain an update, worked out by us and alike for all attacks.

A closed form proves what a network was fed. The images that are shown of it are cut off at black and white as
somebody stated them, so that a wrong range leaves the proof alone and spoils the images. Here the claimed
images and labels take the client's one step again. Several steps are not replayed: who was in which is not
claimed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.audit import Observation, Reconstruction, Victim


def replayed(answer: Reconstruction, seen: Observation, victim: Victim) -> float | None:
    """Relative distance in [0, inf) between the update's gradient and that of the claim; None if neither is
    known.

    Without a known learning rate the gradient is known up to a factor, and the best one is taken.
    """
    images, labels, training = answer.images, answer.labels, seen.config.mode == "train"
    if images is None or labels is None or len(images) != len(labels) or not len(images):
        return None
    if seen.config.local_steps != 1 or (training and victim.model.mask_shapes):
        return None
    state = victim.model.state()
    held = {name: state[name] for name in victim.model.parameter_names} | dict(seen.before)
    found = victim.gradient(held, seen.buffers_before, images, labels, training=training)
    names = list(seen.update)
    decay = seen.config.weight_decay or 0.0
    observed = seen.gradient()
    target = _flat([observed[name] - decay * seen.before[name] for name in names])
    claimed = _flat([found[name].detach() for name in names])
    if seen.config.learning_rate is None:
        claimed = claimed * (claimed @ target) / (claimed @ claimed).clamp(min=1e-300)
    size = float(target.norm())
    distance = float((claimed - target).norm()) / size if size > 0 else float("nan")
    return distance if distance == distance else None


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in values])
