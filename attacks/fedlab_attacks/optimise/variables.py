"""What an attack varies: images, soft labels, dropout masks, the noise of stochastic layers.

Everything that varies lies in one flat tensor (V, N) during a descent, so that a step is a handful of
operations whatever there is to vary. What has a box [0, 1] (images, masks) comes first there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedlab.tasks import State
from fedlab_attacks.optimise.problem import like, pick

Kind = Literal["images", "masks", "labels", "noise"]
KINDS: tuple[Kind, ...] = ("images", "masks", "labels", "noise")


@dataclass(frozen=True)
class Variables:
    """One candidate per row.

    Attributes:
        images: (V, R, C, H, W) in [0, 1].
        labels: soft labels as logits (V, R, classes); None is the problem's own labels.
        masks: keep-masks (V, R, ...) in [0, 1] by dropout layer; none at all is no dropout.
        noise: (V, R, ...) by stochastic layer; none at all is no noise.
        residual: (V,) distance between observed and explained update; inf is not known yet.
    """

    images: Tensor
    labels: Tensor | None = None
    masks: State = field(default_factory=dict)
    noise: State = field(default_factory=dict)
    residual: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if len(self.residual) != len(self.images):
            unknown = torch.full((len(self.images),), torch.inf, device=self.images.device)
            object.__setattr__(self, "residual", unknown)

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, rows: Tensor) -> Variables:
        """The candidates of some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Variables(
            self.images[rows], labels, pick(self.masks, rows), pick(self.noise, rows), self.residual[rows]
        )

    def put(self, rows: Tensor, other: Variables) -> Variables:
        """These candidates, with some rows replaced by those of `other`."""
        return self._joined(other, lambda mine, theirs: mine.index_copy(0, rows, theirs))

    def or_better(self, other: Variables) -> Variables:
        """Row by row, the candidate of lower residual."""
        take = other.residual < self.residual
        return self._joined(other, lambda mine, theirs: torch.where(like(take, mine), theirs, mine))

    def best_of(self, restarts: int) -> Variables:
        """The least residual among each victim's `restarts` neighbouring candidates."""
        table = self.residual.nan_to_num(nan=torch.inf).view(-1, restarts)
        return self.pick(torch.arange(len(table), device=table.device) * restarts + table.argmin(dim=1))

    def flatten(self, vary: Collection[Kind]) -> Tensor:
        """What varies, (V, N)."""
        return torch.cat([part.flatten(1) for _, _, part in self._parts(vary)], dim=1)

    def unflatten(self, flat: Tensor, vary: Collection[Kind]) -> Variables:
        """These candidates with what varies taken from `flat` (V', N); the rest must have V' rows, too."""
        parts = list(self._parts(vary))
        pieces = torch.split(flat, [part[0].numel() for _, _, part in parts], dim=1)
        images, labels, masks, noise = self.images, self.labels, dict(self.masks), dict(self.noise)
        for (kind, name, part), piece in zip(parts, pieces, strict=True):
            value = piece.reshape(-1, *part.shape[1:])
            if kind == "images":
                images = value
            elif kind == "labels":
                labels = value
            else:
                (masks if kind == "masks" else noise)[name] = value
        return Variables(images, labels, masks, noise, self.residual)

    def boxed(self, vary: Collection[Kind]) -> int:
        """How many of the N columns have a box."""
        return sum(part[0].numel() for kind, _, part in self._parts(vary) if kind in ("images", "masks"))

    def scored(self, residual: Tensor) -> Variables:
        """The same with another residual (V,)."""
        return replace(self, residual=residual)

    def to(self, device: torch.device | str) -> Variables:
        """The same on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        masks, noise = ({n: v.to(device) for n, v in state.items()} for state in (self.masks, self.noise))
        return Variables(self.images.to(device), labels, masks, noise, self.residual.to(device))

    def _parts(self, vary: Collection[Kind]) -> Iterator[tuple[Kind, str, Tensor]]:
        """(kind, layer, tensor) of what varies, in the order of `flatten`."""
        for kind in KINDS:
            if kind not in vary:
                continue
            if kind == "images":
                yield kind, "", self.images
            elif kind == "labels":
                if self.labels is not None:
                    yield kind, "", self.labels
            else:
                for name, value in (self.masks if kind == "masks" else self.noise).items():
                    yield kind, name, value

    def _joined(self, other: Variables, join: Callable[[Tensor, Tensor], Tensor]) -> Variables:
        labels = self.labels
        if labels is not None and other.labels is not None:
            labels = join(labels, other.labels)
        return Variables(
            join(self.images, other.images),
            labels,
            {name: join(mask, other.masks[name]) for name, mask in self.masks.items()},
            {name: join(value, other.noise[name]) for name, value in self.noise.items()},
            join(self.residual, other.residual),
        )
