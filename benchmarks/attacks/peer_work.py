"""What both sides of the peer row attack: networks and their victims, with torch alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def lenet() -> nn.Module:
    """The sigmoid LeNet of DLG, for 32 x 32 colour images."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2, padding=2),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, stride=2, padding=2),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, padding=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(768, 10),
    )


def convolutions() -> nn.Module:
    """Three convolutions of width 32 with ReLUs, a linear head."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 10),
    )


NETWORKS = {"lenet": lenet, "3-conv": convolutions}


def load(file: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, `count` victims' images (count, 1, C, H, W) and labels (count, 1)."""
    content: dict[str, Any] = torch.load(Path(file))
    net = NETWORKS[content["network"]]()
    net.load_state_dict(content["state"])
    return net, content["images"][:count], content["labels"][:count]


def gradients(net: nn.Module, image: Tensor, label: Tensor) -> list[Tensor]:
    """Of one victim's loss, by parameter."""
    loss = nn.functional.cross_entropy(net(image), label)
    return list(torch.autograd.grad(loss, list(net.parameters())))


def median_psnr(found: Tensor, truth: Tensor) -> float:
    """In dB, of pixels in [0, 1]; (V, 1, C, H, W) each."""
    error = (found - truth).square().flatten(1).mean(1)
    return statistics.median((-10 * error.log10()).tolist())
