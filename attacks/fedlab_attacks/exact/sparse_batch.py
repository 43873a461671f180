"""A whole batch, exactly, from the zeros that a ReLU leaves in a linear first layer's gradient (SPEAR).

D. I. Dimitrov, M. Baader, M. N. Müller and M. Vechev, "SPEAR: Exact Gradient Inversion of Batches in
Federated Learning", NeurIPS 2024, https://arxiv.org/abs/2403.03945. With Z = X Wᵀ + b the update of the layer
is [∂W ∂b] = ∂Zᵀ [X 1], of rank B: a product L R of thin matrices gives ∂Zᵀ = L Q and [X 1] = Q⁻¹ R for an
unknown invertible Q. A ReLU sets about half of each column of ∂Zᵀ to zero, so a column q of Q solves
L_A q = 0 for any B - 1 units A that its record leaves shut: rows are drawn at random, and a q is kept whose
L q has many more zeros than were asked for. Among those, B independent ones are chosen greedily, sparsest
first, and exchanged while that raises the share λ of zeros and non-zeros of ∂Z that agree with the signs of
Z. A record takes some 2^(B-1) draws, whatever the network behind the ReLU does.

Deviations: the bias gradient is a column of the same factorisation and gives the scale of each record (the
paper solves for the scales afterwards); a direction is solved again from all its zeros, not from the B - 1
that found it, and counts only if those that were not asked for determine it too; signs are those under the
weights before and after training; draws stop when nothing contradicts the signs. Dropout behind the ReLU only
adds zeros: a zero where Z > 0 contradicts nothing. Several local steps sum to the same product, and a zero
then says that a unit was shut in every step.

The certificate is "unique" if the rank is the number of records, the product explains the update up to
rounding, every direction is the only one with its zeros, and no unit that a record leaves shut has a gradient
from it. Without a bias each record is known up to its scale only ("not unique"; the brightest pixel is then
taken to be 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab_attacks.exact.algebra import Measured, Spectrum, certify, measured
from fedlab_attacks.exact.first_layer import ZERO, first_layer, rectified, weights
from fedlab_attacks.reading import Seen, batch_size

METHOD = "sparse batch"
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


class SparseBatch(Attack):
    """Solves for every record of a batch at once, from the zeros of a ReLU.

    Args:
        samples: sets of B - 1 rows that are drawn at most; a batch of B needs some 2^(B-1) B.
    """

    needs: ClassVar = frozenset()
    paper: ClassVar[str] = "Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches, NeurIPS 2024"
    exact: ClassVar[bool] = True

    def __init__(self, *, samples: int = 1_000_000) -> None:
        if samples < 1:
            raise UsageError(f"SparseBatch: samples = {samples}; expected at least 1")
        self.samples = samples

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        answers = []
        for done, observation in enumerate(observations, start=1):
            try:
                answers.append(self._solve(observation, threat, victim, generator))
            except NotApplicable as error:
                answers.append(Reconstruction.refused(error, Certificate.refused(METHOD, str(error))))
            report(done, len(observations))
        return answers

    def _solve(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Reconstruction:
        first, scale, shift = first_layer(observation, victim, generator)
        if not rectified(observation, victim, first.layer, generator):
            raise NotApplicable(
                "no ReLU follows the first linear layer, so its gradient has no zeros to find"
            )
        biased = first.layer.bias is not None
        if not biased and bool(shift.any()):
            raise NotApplicable("the first layer has no bias and its input is shifted: no record has a scale")
        names = [f"{first.name}.weight", f"{first.name}.bias"][: 1 + biased]
        product = Factored.of(measured(observation, *names))
        batch = batch_size(observation, threat)
        _check_rank(product, batch)
        search = Search(product, observation, first)
        solved, drawn = search.best(exchange=False), 0
        while drawn < self.samples and (solved is None or solved.contradictions):
            search.draw(generator)
            drawn += DRAWS
            solved = search.best(exchange=drawn.bit_count() == 1 or drawn >= self.samples)
        if solved is None:
            why = (
                f"{len(search.found)} sparse directions for {product.rank} records after {drawn} draws:"
                " too few; raise samples, or the batch is too large for the width of the layer"
            )
            return Reconstruction.refused(why, Certificate.refused(METHOD, why))
        inputs = solved.inputs[:, : len(scale)]
        if not biased:
            inputs = inputs / (inputs / scale).amax(dim=1, keepdim=True)
        images = ((inputs - shift) / scale).float().nan_to_num(nan=0.5).clamp(0.0, 1.0)
        certificate = _certificate(product, solved, batch, biased)
        return Reconstruction(
            images=images.reshape(-1, *victim.input_shape),
            residual=certificate.residual,
            details={
                "batch": batch or product.rank,
                "rank": product.rank,
                "draws": drawn,
                "agreement": solved.agreement,
                "contradictions": solved.contradictions,
            },
            certificates=(certificate,),
        )


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
    """

    cotangents: Tensor
    inputs: Tensor
    agreement: float
    contradictions: int


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
        )


def _check_rank(product: Factored, batch: int | None) -> None:
    """Raises NotApplicable where the update has no low rank, or a higher one than the records allow."""
    rank, inputs = product.rank, product.measured.values.shape[1]
    units = int((product.left.norm(dim=1) > product.quiet).sum())
    if rank == 0:
        raise NotApplicable("the first layer's update is no larger than rounding")
    if batch is not None and rank > batch:
        raise NotApplicable(
            f"the first layer's update has rank {rank}, more than its {batch} records can give: noise was"
            " added, or the client did something else"
        )
    if rank >= min(units, inputs):
        raise NotApplicable(
            f"the first layer's update has full rank {rank}: no more than {min(units, inputs) - 1} records"
            " can be told apart"
        )


def _certificate(product: Factored, solved: Solved, batch: int | None, biased: bool) -> Certificate:
    """What is proven about the records, and what is left open."""
    rank, records = product.rank, batch or product.rank
    explained = solved.cotangents @ solved.inputs
    values = product.measured.values
    left = []
    if solved.contradictions:
        left.append(f"{solved.contradictions} gradients come from units that their record leaves shut")
    if rank < records:
        left.append(f"{records - rank} of {records} records have no trace of their own")
    if not biased:
        left.append("without a bias the size of each record is open")
    return certify(
        METHOD,
        f"{rank} records" if rank > 1 else "the record",
        rank=rank,
        unknowns=records,
        condition=product.singular.condition,
        residual=float((values - explained).norm() / values.norm()),
        tolerance=product.measured.tolerance,
        null_space=records - rank + (0 if biased else rank),
        open_="; ".join(left),
    )
