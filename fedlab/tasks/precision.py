"""How exactly a GPU computes: in whole float32, and the same bits each time.

Left alone, cuDNN rounds what goes into a convolution to 10 bits of mantissa (TF32, since Ampere), 2^-11 where
float32 has 2^-24, and takes whichever backward kernel is quick, some of which add in an order of their own.
Updates would then carry an error that an attacker's residual cannot go below, and no run could be repeated.
https://docs.pytorch.org/docs/stable/notes/cuda.html, https://docs.pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

import torch


def compute_exactly(device: torch.device) -> None:
    """Settle it for this process, if `device` is a GPU; nothing changes for a CPU."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
