"""How an attack's success moves with a knob: medians, and which steps are more than chance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.attacks.norm_study import Difference, paired
from fedlab.audit import Observation, random_twin


def noisy(observations: Sequence[Observation], ratio: float, seed: int = 0) -> list[Observation]:
    """The observations with a Gaussian vector added whose norm is `ratio` times the update's.

    A victim's direction depends on the seed alone: at another ratio its noise is the same, scaled.
    """
    found = []
    for number, one in enumerate(observations):
        twin = random_twin(one, torch.Generator().manual_seed(seed * 7_919 + number))
        update = {name: value + ratio * twin.update[name] for name, value in one.update.items()}
        found.append(replace(one, update=update))
    return found


@dataclass(frozen=True)
class Curve:
    """PSNR (dB) of the same number of victims at each value of a knob; values from weak to strong.

    Attributes:
        psnrs: of each value, each victim's mean PSNR; in the same order where the victims are the same.
    """

    knob: str
    values: Sequence[float]
    psnrs: Sequence[Sequence[float]]

    @property
    def medians(self) -> list[float]:
        """One per value."""
        return [statistics.median(one) for one in self.psnrs]

    def steps(self) -> list[Difference]:
        """Each value's PSNR less that of the value before, with 95 % intervals over victims."""
        return [paired(after, before) for before, after in zip(self.psnrs, self.psnrs[1:], strict=False)]

    def rises(self) -> list[float]:
        """Values at which the PSNR is above that of the value before by more than its interval."""
        return [at for at, step in zip(self.values[1:], self.steps(), strict=True) if step.low > 0.0]

    @property
    def fall(self) -> Difference:
        """How far the PSNR falls from the first value to the last."""
        return paired(self.psnrs[0], self.psnrs[-1])

    def __str__(self) -> str:
        whole = self.fall
        if self.rises():
            told = f"rises at {', '.join(f'{at:g}' for at in self.rises())}"
        else:
            told = "falls" if whole.low > 0.0 else "is flat"
        return f"{told}; first less last {whole}"
