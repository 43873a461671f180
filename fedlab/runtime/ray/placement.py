"""Which device this process computes on: the one that Ray gave to its worker, or the CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its machine in the cluster, its process, its GPUs by Ray's numbers."""

    node: str
    pid: int
    gpus: tuple[str, ...] = ()


_place: Place | None = None


def settle(place: Place) -> None:
    """This process is a worker, and that is what it owns."""
    global _place
    _place = place


def own_place() -> Place:
    """Where this process is; outside of a worker it owns no GPU."""
    return _place if _place is not None else Place("", os.getpid())


def own_device() -> torch.device:
    """The device of this process: in a worker with a GPU, that one; the CPU otherwise.

    Ray narrows CUDA_VISIBLE_DEVICES to what the worker owns, so that its first GPU is always cuda:0;
    several workers may share it. A GPU that Ray only counts (`ray.init(num_gpus=2)` on a machine
    without one) is none for torch.
    """
    return torch.device("cuda:0" if own_place().gpus and torch.cuda.is_available() else "cpu")
