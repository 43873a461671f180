"""The search for SPEAR's sparse directions: what stands between a layer's update and the records behind it.

The method and its source are in `sparse_batch`. Here the update is a product L R of thin matrices
(`Factored`), a direction is a vector q whose L q has many zeros (`Direction`), and a choice of as many
independent ones as there are records gives those records (`Solved`). `Search` draws, keeps and chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab_attacks.exact.algebra import Measured, Spectrum
from fedlab_attacks.exact.first_layer import ZERO, weights
from fedlab_attacks.reading import Seen

DRAWS = 2048
"""Sets of rows that are solved at once."""
LOOSE = 3e-4
"""A drawn direction counts as zero below this share of its mean size, and is then solved again."""
QUIET = 2.0
"""Units of an entry's rounding below which it is zero."""
ALIVE = 4.0
"""A row of the update counts as changed above so many of those."""
SAME = 1e-6
"""One minus the cosine of two directions that are one."""
VOUCHED = 1e-4
"""Least eigenvalue but one of the rows that vouch for a direction, where those of all rows are 1."""
BLURRED = 0.02
"""Share of a direction's size that rounding may move it by."""
TRIED, REFINED, KEPT = 64, 8, 4
"""Directions that are solved again for each draw, how often, and how many are kept for each record."""


@dataclass(frozen=True)
class Factored:
    """The layer's update (m, n) as a product of thin matrices, left (m, r) times right (r, n) with RRᵀ = 1.

    Attributes:
        quiet: size below which an entry of `left` times a unit vector is rounding.
    """

    measured: Measured
    left: Tensor
    right: Tensor
    singular: Spectrum
    quiet: float

    @classmethod
    def of(cls, update: Measured) -> Factored:
        """The truncated singular value decomposition; its rank is what rises above rounding."""
        u, values, vh = torch.linalg.svd(update.values, full_matrices=False)
        found = Spectrum(values, max(update.rounding, 1e-13 * float(values[0])))
        rank = found.rank
        entry = max(update.noise / update.values.numel() ** 0.5, 1e-13 * float(values[0]))
        return cls(update, u[:, :rank] * values[:rank], vh[:rank], found, QUIET * entry)

    @property
    def rank(self) -> int:
        """The number of records, unless some have no trace of their own."""
        return self.left.shape[1]


@dataclass(frozen=True)
class Solved:
    """A choice of directions and the records that follow from it.

    Attributes:
        cotangents: (m, r) ∂Zᵀ; inputs: (r, n) rows of X, to scale where there is a bias.
        agreement: λ, the share of units and records where ∂Z is zero just where the unit is shut.
        contradictions: units and records with a gradient from a unit that is shut.
        open_units: from how many each record has a gradient, at least: so often chance had to side with it.
    """

    cotangents: Tensor
    inputs: Tensor
    agreement: float
    contradictions: int
    open_units: int


@dataclass(frozen=True)
class Direction:
    """A column of Q.

    Attributes:
        vector: (r,), of norm 1.
        column: (m,) what it makes of ∂Zᵀ.
        on: (m,) where that is more than the rounding of the update and of the vector itself.
        zeros: how many rows of the layer, of those that changed, it leaves zero.
    """

    vector: Tensor
    column: Tensor
    on: Tensor
    zeros: int


class Search:
    """Sparse directions found so far, and the best choice among them."""

    def __init__(self, product: Factored, observation: Observation, first: Seen) -> None:
        self.product = product
        self.biased = first.layer.bias is not None
        # preactivations of the rows of `right`, with the weights as sent and as returned
        self.images = [sides @ product.right.T for sides in weights(observation, first)]
        self.sizes = product.left.norm(dim=1)
        self.alive = self.sizes > ALIVE * product.quiet
        self.rows = product.left[self.alive]
        self.unit = self.rows / self.sizes[self.alive, None]
        self.found: list[Direction] = []
        if product.rank == 1:
            self.found.append(self._direction(self.rows.new_ones(1), 0.0))

    def draw(self, generator: torch.Generator) -> None:
        """Solve `DRAWS` random sets of r - 1 rows, and keep the sparse directions among them."""
        rank = self.product.rank
        if rank == 1 or len(self.rows) < rank:
            return
        order = torch.rand(DRAWS, len(self.rows), generator=generator)
        asked = order.topk(rank - 1, dim=1).indices
        chosen = self.unit[asked]
        solution, _ = torch.linalg.solve_ex(chosen[:, :, :-1], -chosen[:, :, -1:])
        drawn = torch.cat([solution[..., 0], solution.new_ones(len(solution), 1)], dim=1).nan_to_num()
        columns = drawn @ self.rows.T
        columns = columns / columns.norm(dim=1, keepdim=True)
        zero = columns.abs() < LOOSE * len(self.rows) ** -0.5
        sparse = (zero.sum(dim=1) >= 2 * rank) & ~self._known(columns)
        zero, asked = zero[sparse], asked[sparse]
        zero = zero[self._vouched(zero.scatter(1, asked, False))].unique(dim=0)
        for index in zero.sum(dim=1).argsort(descending=True)[:TRIED].tolist():
            self._keep(zero[index])
        self.found = sorted(self.found, key=lambda one: -one.zeros)[: KEPT * rank]

    def _vouched(self, zero: Tensor) -> Tensor:
        """(N,) whether the rows `zero` (N, rows) that were not asked for determine the direction too.

        They do for a record. A mixture of two has the zeros that both have, and one more that was asked for.
        """
        white = self.rows / self.product.singular.singular[: self.product.rank]
        outer = (white[:, :, None] * white[:, None]).flatten(1)
        grams = (zero.double() @ outer).view(-1, self.product.rank, self.product.rank)
        second: Tensor = torch.linalg.eigvalsh(grams)[:, 1]
        return second > VOUCHED

    def _known(self, columns: Tensor) -> Tensor:
        """Which of `columns` (N, rows), of norm 1, are found already."""
        if not self.found:
            return torch.zeros(len(columns), dtype=torch.bool)
        known = torch.stack([one.column[self.alive] for one in self.found])
        nearest: Tensor = (columns @ known.T / known.norm(dim=1)).abs().amax(dim=1)
        return nearest > 1.0 - SAME

    def _keep(self, zero: Tensor) -> None:
        """Solve again from all rows that are zero; keep a direction that they determine, if it is new."""
        for _ in range(REFINED):
            if int(zero.sum()) < 2 * self.product.rank:
                return
            _, values, vh = torch.linalg.svd(self.rows[zero], full_matrices=False)
            if not float(values[-2]) > self.product.singular.floor:
                return
            blur = self.product.quiet / float(values[-2])
            direction = self._direction(vh[-1], blur)
            if blur * float(self.sizes.norm()) > BLURRED * float(direction.column.norm()):
                return
            quiet = ~direction.on[self.alive]
            if bool(quiet[zero].all()):
                break
            # a row that is nearly zero bends the solution: the worst goes
            worst = (direction.column[self.alive].abs() * zero).argmax()
            zero = zero.index_fill(0, worst, False)
        else:
            return
        column = direction.column[self.alive]
        if not bool(self._known(column[None] / column.norm())):
            self.found.append(direction)

    def _direction(self, vector: Tensor, blur: float) -> Direction:
        column = self.product.left @ vector
        on = column.abs() > self.product.quiet + blur * self.sizes
        return Direction(vector, column, on, int((~on[self.alive]).sum()))

    def best(self, *, exchange: bool) -> Solved | None:
        """The sparsest r independent directions, or None; `exchange` tries each other one in each place."""
        chosen = self._independent()
        if len(chosen) < self.product.rank:
            return None
        best = self._solve(chosen)
        while exchange and best.contradictions:
            others = [one for one in self.found if all(one is not used for used in chosen)]
            trials = [
                [*chosen[:place], one, *chosen[place + 1 :]] for place in range(len(chosen)) for one in others
            ]
            solved = [self._solve(trial) for trial in trials]
            top = max(range(len(solved)), key=lambda k: solved[k].agreement, default=None)
            if top is None or solved[top].agreement <= best.agreement:
                break
            best, chosen = solved[top], trials[top]
        return best

    def rivalled(self, solved: Solved) -> bool:
        """Whether other records do as well: no contradiction with another direction in one place."""
        used = [self._used(one, solved) for one in self.found]
        chosen = [one for one, own in zip(self.found, used, strict=True) if own]
        others = [one for one, own in zip(self.found, used, strict=True) if not own]
        trials = (
            [*chosen[:place], one, *chosen[place + 1 :]] for place in range(len(chosen)) for one in others
        )
        return any(self._solve(trial).contradictions == 0 for trial in trials)

    def _used(self, direction: Direction, solved: Solved) -> bool:
        along = (direction.column @ solved.cotangents) / solved.cotangents.norm(dim=0)
        return bool((along.abs() > (1.0 - SAME) * direction.column.norm()).any())

    def _independent(self) -> list[Direction]:
        """The first r of what was found whose columns are independent."""
        basis: list[Tensor] = []
        chosen: list[Direction] = []
        for direction in self.found:
            column = direction.column / direction.column.norm()
            for _ in range(2):  # twice is enough (Kahan and Parlett)
                for one in basis:
                    column = column - (one @ column) * one
            if float(column.norm()) > SAME:
                basis.append(column / column.norm())
                chosen.append(direction)
            if len(chosen) == self.product.rank:
                break
        return chosen

    def _solve(self, chosen: Sequence[Direction]) -> Solved:
        """The records that r directions stand for."""
        inverse = torch.linalg.inv_ex(torch.stack([one.vector for one in chosen], dim=1)).inverse.nan_to_num()
        on = torch.stack([one.on for one in chosen], dim=1)
        z = [image @ inverse.T for image in self.images]
        if self.biased:
            size = inverse @ self.product.right[:, -1]
        else:  # the sign under which more of the units with a gradient are open
            size = torch.where(((z[0] > 0) & on).sum(0) >= ((z[0] < 0) & on).sum(0), 1.0, -1.0).double()
        shut = (z[0] / size < -ZERO) & (z[1] / size < -ZERO)
        return Solved(
            cotangents=torch.stack([one.column for one in chosen], dim=1) * size,
            inputs=((inverse @ self.product.right) / size[:, None]).nan_to_num(),
            agreement=float((shut != on)[self.alive].double().mean()),
            contradictions=int((on & shut).sum()),
            open_units=int(on.sum(dim=0).min()),
        )
