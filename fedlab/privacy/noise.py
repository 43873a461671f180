"""Standard normal noise: from a generator that repeats, or from the operating system.

A simulation draws from the seed tree, so that a run comes out the same to the last bit. Whoever knows the
seed can take that noise away again: it protects no real data. With `secure`, 52 random bits of the operating
system's generator (`os.urandom`) make each number, by the inverse of the normal distribution in double
precision (none lies further out than 8.2). Nobody can repeat it, a resumed run included.

What `secure` does not do: floating-point numbers are not real numbers. Which values a noisy sum can take at
all depends on the sum, so that its last bits may tell what the noise should hide (Mironov, "On Significance
of the Least Significant Bits for Differential Privacy", CCS 2012, https://doi.org/10.1145/2382196.2382264,
for Laplace noise; Jin et al., "Are We There Yet? Timing and Floating-Point Attacks on Differential Privacy
Systems", S&P 2022, https://arxiv.org/abs/2112.05307, for Gaussian noise). Every ε here is that of real
numbers; noise on integers (`distributed-dp`) has no such gap.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

FROM_SEEDS = "reproducible simulation noise from the seed tree: protects no real data"
FROM_SYSTEM = "from the operating system, in floating point; ε is that of real numbers (Mironov 2012)"


def standard_normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    *,
    secure: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent draws from N(0, 1), on the CPU.

    Args:
        generator: what to draw from; nothing is taken from it when `secure`.
        secure: draw from the operating system instead.
    """
    if not secure:
        return torch.randn(tuple(shape), generator=generator, dtype=dtype)
    bits = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype=np.uint64) >> np.uint64(12)
    uniform = (bits + 0.5) * 2.0**-52  # exact, and never 0 or 1, where the inverse is infinite
    return torch.from_numpy(ndtri(uniform)).reshape(tuple(shape)).to(dtype)


def source(secure: bool) -> str:
    """Where the noise came from, for a guarantee."""
    return FROM_SYSTEM if secure else FROM_SEEDS
