"""One seed tree: each random draw names its place, (seed, round, client, purpose), and gets a stream.

A stream depends on its path alone, never on how many draws came before, on the worker that makes
them or on their order. That is what makes one worker, many workers and a resumed run agree.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the stream at `path`; different paths give independent streams."""
    place = repr((seed, *path))  # quotes and commas keep 1 and "1", "a", "b" and "a, b" apart
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *path: int | str) -> np.random.Generator:
    """The stream at `path` for numpy."""
    return np.random.Generator(np.random.Philox(derive(seed, *path)))


def torch_generator(seed: int, *path: int | str) -> torch.Generator:
    """The stream at `path` for torch, on the CPU (so that every device sees the same numbers)."""
    return torch.Generator().manual_seed(derive(seed, *path))
