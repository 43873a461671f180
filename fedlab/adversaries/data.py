"""Poisoned records: the client trains as it is told, on data that are not what they seem.

Label flip: Tolpegin, Truex, Gursoy, Liu, "Data Poisoning Attacks Against Federated Learning Systems",
ESORICS 2020, https://arxiv.org/abs/2007.08432: records of a source class get the label of a target class.
Without a source every label is mirrored, y <- C − 1 − y, which is the other usual form (Fang, Cao, Jia,
Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX Security 2020,
https://arxiv.org/abs/1911.11815).

Backdoor: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning", AISTATS 2020,
https://arxiv.org/abs/1807.00459, with the pixel pattern of Gu, Dolan-Gavitt, Garg, "BadNets",
https://arxiv.org/abs/1708.06733: a share of a client's records gets a bright square in a corner and the
target's label. Deviation: the share is drawn once from all of the client's records, not for each batch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlab.adversaries.contract import HONEST, Adversary
from fedlab.errors import UsageError


class LabelFlip(Adversary):
    """y <- C − 1 − y, or y <- target where y = source.

    Tolpegin et al., "Data Poisoning Attacks Against Federated Learning Systems", ESORICS 2020, https://arxiv.org/abs/2007.08432.

    Args:
        source: the class whose records are relabelled; all classes, mirrored, unless given.
        target: the label that they get; given together with `source`.
    """

    knows: ClassVar[str] = HONEST

    def __init__(
        self,
        *,
        source: Annotated[int, Field(ge=0)] | None = None,
        target: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        if (source is None) != (target is None):
            raise UsageError("source and target belong together; give both, or none to mirror all labels")
        if source is not None and (source == target or source < 0 or (target or 0) < 0):
            raise UsageError(f"source = {source}, target = {target}; expected two different classes")
        self.source, self.target = source, target
        which = "test images" if source is None else f"test images of class {source}"
        self.wants = f"{which} that get their flipped label"

    def flipped(self, y: Tensor, classes: int) -> Tensor:
        """(n,) labels after the flip; those of other classes than the source stay.

        Raises:
            UsageError: there are not so many classes.
        """
        if self.source is None or self.target is None:
            return classes - 1 - y
        _within("source", self.source, classes)
        _within("target", self.target, classes)
        return torch.where(y == self.source, torch.full_like(y, self.target), y)

    def poison(self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, self.flipped(y, classes)

    def aim(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        flipped = self.flipped(y, classes)
        return x, torch.where(flipped == y, torch.full_like(y, -1), flipped)


class Backdoor(Adversary):
    """x[corner] <- value and y <- target, for a share of the client's records.

    Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020, https://arxiv.org/abs/1807.00459.

    Args:
        target: the label of every image that shows the trigger.
        size: side of the trigger, a square in the lower right corner, in pixels.
        value: brightness of its pixels.
        share: of a client's records, rounded, that get the trigger; at least one record does.
    """

    knows: ClassVar[str] = HONEST

    def __init__(
        self,
        *,
        target: Annotated[int, Field(ge=0)] = 0,
        size: Annotated[int, Field(ge=1)] = 2,
        value: Annotated[float, Field(ge=0, le=1)] = 1.0,
        share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        if target < 0:
            raise UsageError(f"target = {target}; expected a class, 0 or more")
        if size < 1:
            raise UsageError(f"size = {size}; expected a side of at least one pixel")
        if not 0.0 <= value <= 1.0:
            raise UsageError(f"value = {value}; expected a brightness from 0 to 1")
        if not 0.0 < share <= 1.0:
            raise UsageError(f"share = {share}; expected a share of records above 0, at most 1")
        self.target, self.size, self.value, self.share = target, size, value, share
        self.wants = f"test images of other classes that are called class {target} once they show the trigger"

    def triggered(self, x: Tensor) -> Tensor:
        """(n, C, H, W) with the trigger.

        Raises:
            UsageError: the images are too small for it.
        """
        if self.size > min(x.shape[2:]):
            raise UsageError(f"size = {self.size}; expected at most {min(x.shape[2:])}, the images' side")
        marked = x.clone()
        marked[:, :, -self.size :, -self.size :] = self.value
        return marked

    def poison(self, x: Tensor, y: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        _within("target", self.target, classes)
        count = max(1, round(self.share * len(x)))
        picked = torch.randperm(len(x), generator=generator)[:count]
        images, labels = x.clone(), y.clone()
        images[picked], labels[picked] = self.triggered(x[picked]), self.target
        return images, labels

    def aim(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
        _within("target", self.target, classes)
        wanted = torch.full_like(y, self.target)
        return self.triggered(x), torch.where(y == self.target, torch.full_like(y, -1), wanted)


def _within(name: str, label: int, classes: int) -> None:
    if label >= classes:
        raise UsageError(f"{name} = {label}; expected a class from 0 to {classes - 1}")
