"""Transforms of images (B, C, H, W) in [0, 1], without torchvision: affine ones, and PIL's of colours.

Pure functions of tensors, so that they can be mapped over clients, and differentiated where they move pixels.
What an affine transform brings in from outside the image is black. Deviations from PIL: positions between
pixels are interpolated linearly, and pixels are numbers instead of bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)
"""Luminance of red, green and blue (ITU-R 601-2), as PIL converts to grey."""

SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))
"""PIL's kernel of the image that sharpness is measured against, over 13."""


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    """What is seen when output pixel p is looked up at M (p, 1), both measured in pixels from the centre.

    Args:
        images: (B, C, H, W).
        matrices: (B, 2, 3), rows for x (to the right) and y (down).
    """
    height, width = images.shape[-2:]
    right = torch.arange(width).to(images) - (width - 1) / 2.0
    down = torch.arange(height).to(images) - (height - 1) / 2.0
    x, y = torch.meshgrid(right, down, indexing="xy")
    places = torch.stack([x, y, torch.ones_like(x)], -1)  # (H, W, 3)
    # grid_sample counts from -1 to 1 from edge to edge, along either side.
    sides = torch.stack([torch.full_like(x, 2.0 / width), torch.full_like(x, 2.0 / height)], -1)
    grid = torch.einsum("hwk,bjk->bhwj", places, matrices) * sides
    return functional.grid_sample(images, grid, align_corners=False)


def rotation(degrees: Tensor) -> Tensor:
    """(B, 2, 3) of an image turned counter-clockwise by (B,) degrees."""
    angle = degrees * (math.pi / 180.0)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrix(cos, -sin, zero, sin, cos, zero)


def shear_x(share: Tensor) -> Tensor:
    """(B, 2, 3): a row is looked up `share` of a pixel further right for each pixel further down."""
    one, zero = torch.ones_like(share), torch.zeros_like(share)
    return _matrix(one, share, zero, zero, one, zero)


def shear_y(share: Tensor) -> Tensor:
    """(B, 2, 3): a column is looked up `share` of a pixel further down for each pixel further right."""
    one, zero = torch.ones_like(share), torch.zeros_like(share)
    return _matrix(one, zero, zero, share, one, zero)


def translation(right: Tensor, down: Tensor) -> Tensor:
    """(B, 2, 3): each pixel is looked up so many pixels further right and down."""
    one, zero = torch.ones_like(right), torch.zeros_like(right)
    return _matrix(one, zero, right, zero, one, down)


def _matrix(*numbers: Tensor) -> Tensor:
    return torch.stack(numbers, -1).reshape(-1, 2, 3)


def blend(plain: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """plain + factor (image − plain), in [0, 1]: PIL's ImageEnhance with (B,) factors, 1 for the image."""
    return (plain + factors.reshape(-1, 1, 1, 1) * (images - plain)).clamp(0.0, 1.0)


def grey(images: Tensor) -> Tensor:
    """(B, 1, H, W) of (B, C, H, W): luminance of three channels, the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY).reshape(3, 1, 1)).sum(1, keepdim=True)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Towards black (factor 0) or away from it."""
    return blend(torch.zeros_like(images), images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the image's mean grey or away from it."""
    return blend(grey(images).mean((2, 3), keepdim=True), images, factors)


def colour(images: Tensor, factors: Tensor) -> Tensor:
    """Towards grey or away from it."""
    return blend(grey(images), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the smoothed image or away from it; the outermost pixels stay."""
    channels = images.shape[1]
    kernel = images.new_tensor(SMOOTH).div(13.0).expand(channels, 1, 3, 3)
    inner = functional.conv2d(images, kernel, groups=channels)
    border = functional.pad(torch.ones_like(inner), (1, 1, 1, 1))
    smooth = torch.where(border > 0.0, functional.pad(inner, (1, 1, 1, 1)), images)
    return blend(smooth, images, factors)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Pixels at or above the threshold inverted."""
    return torch.where(images >= threshold, 1.0 - images, images)


def posterize(images: Tensor, bits: int) -> Tensor:
    """The first so many bits of each pixel's byte."""
    step = 2.0 ** (8 - bits)
    return (images * 255.0 / step).floor() * step / 255.0


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched over [0, 1]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 0.0, (images - low) / spread.clamp(min=1e-6), images)
