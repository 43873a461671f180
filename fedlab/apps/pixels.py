"""What black and white are to an app's network: the affine map from pixels in [0, 1] to what it is fed.

Scores of reconstructed images are defined on [0, 1]. The map is code that the server's operator wrote (a
`Normalize`), so an attacker knows it; here it has to be found from what clients fed their networks. Whole
steps of 1/255 (bytes) or 1/16 (scikit-learn's digits) tell a normalisation for certain; without them (after
interpolation, say) a usual one whose ends were met is taken; otherwise the darkest and the brightest value
that any client had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Surety = Literal["recorded", "checked", "stated", "assumed"]

NORMALISATIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("[0, 1], as they are", (0.0,), (1.0,)),
    ("[-1, 1]: mean 0.5, deviation 0.5", (0.5,), (0.5,)),
    ("0 to 16", (0.0,), (1 / 16,)),
    ("0 to 255", (0.0,), (1 / 255,)),
    ("MNIST's mean and deviation", (0.1307,), (0.3081,)),
    ("Fashion-MNIST's mean and deviation", (0.2860,), (0.3530,)),
    ("Fashion-MNIST's mean and deviation", (0.2860,), (0.3204,)),
    ("CIFAR-10's mean and deviation", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("CIFAR-10's mean and deviation", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ("CIFAR-100's mean and deviation", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ("ImageNet's mean and deviation", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
STEPS = (255, 16)
"""In how many steps pixels go from 0 to 1 as they come from a file."""
BLUR = 0.02
"""How far float32 may move a pixel off a whole step, in steps."""
SLACK = 1e-3
"""How far a pixel may lie outside [0, 1]."""
NEAR = 0.02
"""How near to 0 and 1 the extremes must come where there are no whole steps."""


@dataclass(frozen=True)
class PixelRange:
    """Black and white, (C, 1, 1) each, as the network gets them; where from, and how surely."""

    low: Tensor
    high: Tensor
    words: str
    sure: Surety

    def unit(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] from what the network got."""
        return ((inputs - self.low) / (self.high - self.low)).clamp(0.0, 1.0)


def stated(low: tuple[float, ...], high: tuple[float, ...], channels: int) -> PixelRange:
    """What somebody says, once or per channel."""
    ends = [torch.tensor(end).expand(channels).reshape(-1, 1, 1).clone() for end in (low, high)]
    return PixelRange(ends[0], ends[1], "stated by the app's author", "stated")


def pixel_range(inputs: Iterable[Tensor]) -> PixelRange:
    """From all (B, C, H, W) that clients fed their networks."""
    seen = torch.cat([one.detach().float() for one in inputs])
    fitting = [one for one in _usual(seen.shape[1]) if _holds(one, seen)]
    for one in sorted(fitting, key=_width):
        for steps in STEPS:
            if _whole(one, seen, steps):
                words = f"{one.words}: every recorded value is then a multiple of 1/{steps}"
                return PixelRange(one.low, one.high, words, "checked")
    for one in sorted(fitting, key=_width):
        values = (seen - one.low) / (one.high - one.low)
        if float(values.min()) < NEAR and float(values.max()) > 1.0 - NEAR:
            words = f"{one.words}: the recorded values fill it, though not in whole steps"
            return PixelRange(one.low, one.high, words, "assumed")
    return _extremes(seen)


def _usual(channels: int) -> list[PixelRange]:
    found = []
    for words, mean, deviation in NORMALISATIONS:
        if len(mean) not in (1, channels):
            continue
        centre = torch.tensor(mean).expand(channels).reshape(-1, 1, 1)
        spread = torch.tensor(deviation).expand(channels).reshape(-1, 1, 1)
        found.append(PixelRange((0.0 - centre) / spread, (1.0 - centre) / spread, words, "assumed"))
    return found


def _holds(one: PixelRange, seen: Tensor) -> bool:
    values = (seen - one.low) / (one.high - one.low)
    return float(values.min()) >= -SLACK and float(values.max()) <= 1.0 + SLACK


def _width(one: PixelRange) -> float:
    return float((one.high - one.low).mean())


def _whole(one: PixelRange, seen: Tensor, steps: int) -> bool:
    values = (seen.double() - one.low.double()) / (one.high.double() - one.low.double()) * steps
    return float((values - values.round()).abs().max()) < BLUR


def _extremes(seen: Tensor) -> PixelRange:
    channels = seen.transpose(0, 1).flatten(1)
    low, high = channels.min(1).values, channels.max(1).values
    high = torch.where(high > low, high, low + 1.0)
    words = "the least and the largest recorded value of each channel are taken for black and white"
    found = PixelRange(low.reshape(-1, 1, 1), high.reshape(-1, 1, 1), words, "assumed")
    for steps in STEPS:
        if _whole(found, seen, steps):
            words += f": every recorded value is then a multiple of 1/{steps}"
            return replace(found, words=words, sure="checked")
    return found
