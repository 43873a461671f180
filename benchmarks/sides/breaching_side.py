"""breaching's "invertinggradients" on the peer row's victims, one after the other, as it works.

`python -m benchmarks.sides.breaching_side FILE COUNT`; answers `N` with the median PSNR after N iterations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from benchmarks.attacks.breaching_shim import reconstruct
from benchmarks.attacks.peer_work import gradients, load, median_psnr
from benchmarks.sides.serve import serve


def attack(file: str, count: int) -> Callable[[int], dict[str, float]]:
    """A function that attacks every victim with so many iterations."""
    net, images, labels = load(file, count)
    slopes = [gradients(net, image, label) for image, label in zip(images, labels, strict=True)]
    shape = tuple(images.shape[2:])

    def run(iterations: int) -> dict[str, float]:
        torch.manual_seed(0)
        pairs = zip(slopes, labels, strict=True)
        found = [reconstruct(net, slope, label, shape, iterations) for slope, label in pairs]
        return {"psnr": median_psnr(torch.stack(found), images)}

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(attack(sys.argv[1], int(sys.argv[2])), warm_up=5)
