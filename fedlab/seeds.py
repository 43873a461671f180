"""One seed tree: each random draw names its place, (seed, round, client, purpose), and gets a stream.

A stream depends on its path alone, never on how many draws came before, on the worker that makes
them or on their order. That is what makes one worker, many workers and a resumed run agree.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike, NDArray


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the stream at `path`; different paths give independent streams."""
    return int.from_bytes(hashlib.blake2b(_place(seed, *path), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *path: int | str) -> np.random.Generator:
    """The stream at `path` for numpy."""
    start = _Digest(_place(seed, *path))
    return np.random.Generator(np.random.PCG64DXSM(start))  # type: ignore[arg-type]  # takes any ISeedSequence


def torch_generator(seed: int, *path: int | str) -> torch.Generator:
    """The stream at `path` for torch, on the CPU (so that every device sees the same numbers)."""
    return torch.Generator().manual_seed(derive(seed, *path))


def _place(seed: int, *path: int | str) -> bytes:
    return repr((seed, *path)).encode()  # quotes and commas keep 1 and "1", "a", "b" and "a, b" apart


class _Digest(ISeedSequence):
    """The words that a bit generator starts from: a hash of the place.

    numpy's own SeedSequence mixes as well, in four times the time; a cohort draws thousands of streams.
    """

    def __init__(self, place: bytes) -> None:
        self.place = place

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint32 | np.uint64]:
        size = n_words * np.dtype(dtype).itemsize
        return np.frombuffer(hashlib.blake2b(self.place, digest_size=size).digest(), dtype=dtype)
