"""Where the pixels of an image end up in a layer's input, found by trying: four images tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.errors import NotApplicable
from fedlab.tasks import State

EXACT = 1e-9
"""How far a probing pass in float64 may stray."""


@dataclass(frozen=True)
class PixelMap:
    """Entry k of a layer's input is scale[k] * (pixel number index[k]) + shift[k]; all (n,).

    Entries that no pixel reaches (the padding of a convolution) have scale 0. A pixel may be in several.
    """

    scale: Tensor
    shift: Tensor
    index: Tensor
    shape: tuple[int, ...]

    @classmethod
    def read(cls, fed: Tensor, shape: tuple[int, ...]) -> PixelMap:
        """From `fed` (4, ...), what the layer was fed for `trial_images(shape)`.

        Raises:
            NotApplicable: something mixes, drops or bends the pixels before the layer.
        """
        zeros, ones, ramp, noise = fed.flatten(1).double()
        count = math.prod(shape)
        scale, shift = ones - zeros, zeros
        used = scale.abs() > EXACT
        place = torch.where(used, (ramp - shift) / torch.where(used, scale, 1.0), 0.0) * count
        index = place.round().long().clamp(0, count - 1)
        expected = trial_images(shape)[3].flatten()[index] * scale + shift
        if not torch.allclose(noise, expected, atol=1e-7, rtol=0.0):
            raise NotApplicable(
                "the first layer is not fed with the pixels themselves (something mixes, drops or bends them"
                " before it)"
            )
        missing = count - len(set(index[used].tolist()))
        if missing:
            raise NotApplicable(f"the first layer does not see {missing} of {count} pixels")
        return cls(scale, shift, index, shape)

    def image(self, entries: Tensor) -> Tensor:
        """(C, H, W) float64 from the layer's input (n,); a pixel in several entries is their mean."""
        used = self.scale != 0.0
        values = (entries.flatten()[used] - self.shift[used]) / self.scale[used]
        total = torch.zeros(math.prod(self.shape), dtype=torch.float64)
        seen = total.index_add(0, self.index[used], torch.ones_like(values))
        return (total.index_add(0, self.index[used], values) / seen).reshape(self.shape)


def trial_images(shape: tuple[int, ...]) -> Tensor:
    """(4, C, H, W) float64: black, white, a ramp that numbers the pixels, noise."""
    count = math.prod(shape)
    noise = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ramp = torch.arange(count, dtype=torch.float64) / count
    return torch.stack([torch.zeros_like(ramp), torch.ones_like(ramp), ramp, noise]).reshape(4, *shape)


def doubled(state: State) -> State:
    """The same in float64, so that what is tried is not blurred by rounding."""
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
