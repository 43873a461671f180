"""Images made to fool a network: projected gradient ascent on the loss, and the accuracy that survives it.

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018, https://arxiv.org/abs/1706.06083, section 2: x̃ <- Π(x̃ + α sign ∇ℓ(x̃)), Π onto the images that
differ from x by at most ρ in every pixel and have pixels in [0, 1]. PGD-20 is 20 such steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import grad

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks.functional import FunctionalModel, State

if TYPE_CHECKING:
    from fedlab.tasks.task import Dataset

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, C), labels (B,)) -> loss of each example (B,)."""

PIECE = 500
"""Images that are attacked together."""


def ascend(
    slope: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, rho: float, alpha: float, steps: int
) -> Tensor:
    """Images near `x` (B, ...) whose loss is higher; pure, so it can be mapped over clients.

    Args:
        slope: images -> gradient of each one's loss by its own pixels, (B, ...).
        start: (B, ...) to be added to `x` where the search begins; projected like every step.
        rho: largest change of a pixel.
        alpha: length of a step, in each pixel.
        steps: how many.
    """
    lowest, highest = (x - rho).clamp(min=0.0), (x + rho).clamp(max=1.0)
    found = torch.minimum(torch.maximum(x + start, lowest), highest)
    for _ in range(steps):
        found = torch.minimum(torch.maximum(found + alpha * slope(found).sign(), lowest), highest)
    return found


def attacked(
    model: FunctionalModel,
    state: State,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    *,
    rho: float,
    alpha: float | None = None,
    steps: int = 20,
) -> Tensor:
    """Images near `x` (B, C, H, W) with a higher loss: those that the network gets wrong, if there are any.

    The network is in inference mode; pixels lie in [0, 1]. The search starts at a random point, drawn from
    `generator`.

    Args:
        rho: largest change of a pixel.
        alpha: length of a step; 2.5 rho / steps unless given, which crosses the ball with room to spare.

    Raises:
        UsageError: rho, alpha or steps out of range.
    """
    if not (rho >= 0.0 and steps >= 1 and (alpha is None or alpha > 0.0)):
        raise UsageError(
            f"rho = {rho}, alpha = {alpha}, steps = {steps}; expected rho >= 0, alpha > 0, steps >= 1"
        )

    def total(pixels: Tensor) -> Tensor:
        outputs, _ = model(state, pixels, training=False)
        return loss(outputs, y).sum()

    start = rho * (2.0 * torch.rand(x.shape, generator=generator) - 1.0)
    return ascend(grad(total), x, start, rho, 2.5 * rho / steps if alpha is None else alpha, steps).detach()


def robust_accuracy(
    model: FunctionalModel,
    state: State,
    loss: Loss,
    data: Dataset,
    seed: int,
    *,
    rho: float,
    alpha: float | None = None,
    steps: int = 20,
) -> float:
    """Share of the records that the network gets right both as they are and attacked; PGD-20 by default.

    Args:
        seed: of the random starting points; the same for every model that is compared.
        rho, alpha, steps: of `attacked`.

    Raises:
        UsageError: rho, alpha or steps out of range, or records that are no pixels.
    """
    if not data.pixels:
        raise UsageError(
            f"the records of {data.name} are no pixels in [0, 1], and the attack moves pixels; take images"
        )
    right = 0
    for first in range(0, len(data), PIECE):
        ids = list(range(first, min(first + PIECE, len(data))))
        x, y = data.images(ids), data.labels(ids)
        generator = seeds.torch_generator(seed, "robust-accuracy", first)
        worst = attacked(model, state, loss, x, y, generator, rho=rho, alpha=alpha, steps=steps)
        with torch.no_grad():
            hits = [model(state, images, training=False)[0].argmax(1) == y for images in (x, worst)]
        right += int((hits[0] & hits[1]).sum())
    return right / len(data)
