"""fedlab's inverting-gradients on the peer row's victims, all in one batch.

`python -m benchmarks.sides.inversion_side FILE COUNT`; answers `N` with the median PSNR after N iterations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from fedlab_attacks.recipes.inverting_gradients import InvertingGradients

from benchmarks.attacks.peer_work import gradients, load, median_psnr
from benchmarks.sides.serve import serve
from fedlab.audit import KnownConfig, Observation, ThreatModel, Victim
from fedlab.tasks import FunctionalModel, cross_entropy

SMOOTHNESS = 0.1
"""Weight of the total variation that the recipe's documentation names for photographs."""


def attack(file: str, count: int) -> Callable[[int], dict[str, float]]:
    """A function that attacks every victim with so many iterations."""
    net, images, labels = load(file, count)
    model = FunctionalModel(net, images.shape[2:])
    victim = Victim(model, cross_entropy, tuple(images.shape[2:]), 10)
    state = model.state()
    config = KnownConfig(mode="eval", batch_size=1, local_steps=1, learning_rate=1.0)
    observations = []
    for client, (image, label) in enumerate(zip(images, labels, strict=True)):
        slopes = dict(zip(model.parameter_names, gradients(net, image, label), strict=True))
        update = {name: -slope for name, slope in slopes.items()}
        observations.append(Observation(1, client, state, update, {}, {}, config, 1, labels=label))
    threat = ThreatModel(client_mode="eval", labels=True)

    def run(iterations: int) -> dict[str, float]:
        inverting = InvertingGradients(iterations=iterations, total_variation=SMOOTHNESS)
        answers = inverting(observations, threat, victim, generator=torch.Generator().manual_seed(0))
        found = torch.stack([answer.images for answer in answers if answer.images is not None])
        return {"psnr": median_psnr(found, images)}

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(attack(sys.argv[1], int(sys.argv[2])), warm_up=5)
