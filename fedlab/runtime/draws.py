"""What a fleet draws: one number per (seed, device, purpose), and no list of anything."""

from __future__ import annotations

from fedlab.seeds import derive


def share(seed: int, device: int, *purpose: int | str) -> float:
    """A number drawn uniformly from (0, 1): 52 bits of the seed tree itself, which is cheaper by far
    than a generator that would be asked once."""
    return ((derive(seed, "device", device, *purpose) >> 11) + 0.5) / 2**52
