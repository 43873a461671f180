"""What a biased linear first layer says of a batch exactly, over any number of steps: the records' span.

The layer's update is [∂W ∂b] = Σ_i δ_i [x_i 1]ᵀ with some δ_i (`exact.linear_layer`), over steps, momentum
and any order. So the rows of a truncated singular value decomposition span the extended records, and those
rows whose last entry is 1 are an affine space of R - 1 dimensions that holds all R images. A descent within
it has R - 1 unknowns per image instead of one per pixel. The low rank is that of D. I. Dimitrov et al.,
"SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS 2024,
https://arxiv.org/abs/2403.03945; deviation: no zeros of a ReLU are looked for (`exact.sparse_batch` does), a
descent finds the images, and so any activation will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.exact.algebra import measured, spectrum
from fedlab_attacks.exact.first_layer import first_layer
from fedlab_attacks.optimise.optimisers import Optimiser
from fedlab_attacks.reading import unchanged


@dataclass(frozen=True)
class Span:
    """Affine spaces of images, one per row: origin (V, n), orthonormal basis (V, k, n) of the directions."""

    origin: Tensor
    basis: Tensor

    def to(self, device: torch.device) -> Span:
        """The same on another device."""
        return Span(self.origin.to(device), self.basis.to(device))

    def repeat(self, restarts: int) -> Span:
        """Each row `restarts` times, neighbours."""
        return Span(self.origin.repeat_interleave(restarts, 0), self.basis.repeat_interleave(restarts, 0))

    def nearest(self, images: Tensor) -> Tensor:
        """The images (V, R, ...) of the space that are nearest to the given ones."""
        return self.images(self.coordinates(images.flatten(2))).reshape(images.shape)

    def coordinates(self, images: Tensor) -> Tensor:
        """(V, R, k) of flat images (V, R, n)."""
        return (images - self.origin[:, None]) @ self.basis.mT

    def images(self, coordinates: Tensor) -> Tensor:
        """Flat images (V, R, n) at coordinates (V, R, k)."""
        return self.origin[:, None] + coordinates @ self.basis


def spans(
    victim: Victim,
    observations: Sequence[Observation],
    records: int,
    generators: Sequence[torch.Generator],
) -> Span | None:
    """Where the images of each observation lie, or None if that is not known of all of them.

    It is not where the first layer is not linear, has no bias or is not shared, where a defense changes its
    update, where noise was added (the rank is higher than the number of records), and where there are as many
    records as units (of those that moved) or pixels.
    """
    found = []
    for observation, generator in zip(observations, generators, strict=True):
        one = _span(victim, observation, records, generator)
        if one is None:
            return None
        found.append(one)
    return Span(torch.stack([one.origin for one in found]), torch.stack([one.basis for one in found]))


def _span(victim: Victim, observation: Observation, records: int, generator: torch.Generator) -> Span | None:
    """A single observation's, without the leading axis."""
    try:
        first, scale, shift = first_layer(observation, victim, generator)
    except NotApplicable:
        return None
    names = [f"{first.name}.weight", f"{first.name}.bias"]
    try:
        unchanged(victim, *names)
    except NotApplicable:
        return None
    if any(name not in observation.update for name in names):
        return None
    update = measured(observation, *names)
    rank = spectrum(update.values, update.rounding).rank
    units = int((update.values.norm(dim=1) > update.rounding).sum())
    if not 0 < rank <= records or rank >= min(units, len(scale) + 1):
        return None
    rows = torch.linalg.svd(update.values, full_matrices=False).Vh[:rank]
    last = rows[:, -1]
    # a combination c of the rows is an image where c · last = 1: c = last / |last|² + what is orthogonal
    origin = (last @ rows)[:-1] / last.square().sum()
    across = torch.linalg.svd(last[None]).Vh[1:] @ rows[:, :-1] / scale
    basis = torch.zeros(records - 1, len(scale), dtype=origin.dtype)
    basis[: rank - 1] = torch.linalg.qr(across.T).Q.T
    kind = observation.update[names[0]].dtype
    return Span(((origin - shift) / scale).to(kind), basis.to(kind))


@dataclass(frozen=True)
class Within:
    """An optimiser that moves the first `images` images of each row within a span; the rest moves as it does.

    Attributes:
        inner: steps in the coordinates of the span.
        span: one row per row of the variables.
        images: how many of them each row has.
    """

    inner: Optimiser
    span: Span
    images: int

    def start(self, flat: Tensor) -> State:
        inner = self.inner.start(_inside(flat, self.span, self.images))
        return {**inner, "origin": self.span.origin, "basis": self.span.basis}

    def move(
        self, state: State, flat: Tensor, value: Tensor, slope: Tensor, *, i: int, factor: float, pixels: int
    ) -> Tensor:
        span = Span(state["origin"], state["basis"])
        along = (slope[:, :pixels].view(len(flat), self.images, -1) @ span.basis.mT).flatten(1)
        moved = self.inner.move(
            state,
            _inside(flat, span, self.images),
            value,
            torch.cat([along, slope[:, pixels:]], 1),
            i=i,
            factor=factor,
            pixels=0,
        )
        count = along.shape[1]
        images = span.images(moved[:, :count].view(len(flat), self.images, -1))
        return torch.cat([images.flatten(1), moved[:, count:]], 1)


def _inside(flat: Tensor, span: Span, images: int) -> Tensor:
    """Variables (V, N) with their pixels as coordinates."""
    pixels = images * span.origin.shape[1]
    own = span.coordinates(flat[:, :pixels].view(len(flat), images, -1))
    return torch.cat([own.flatten(1), flat[:, pixels:]], 1)
