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
rounding, every direction is the only one with its zeros, no unit that a record leaves shut has a gradient
from it, and no other choice of the directions found does as well: in a narrow layer one may, above all with
two classes, where a difference of records has as many zeros as a record. Where nobody can say how many
records there are, it is "not unique", and so it is without a bias, where each record is known up to its scale
only (the brightest pixel is then taken to be 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab_attacks.exact.algebra import certify, measured
from fedlab_attacks.exact.each import each
from fedlab_attacks.exact.first_layer import first_layer, rectified
from fedlab_attacks.exact.sparse_search import DRAWS, Factored, Search, Solved
from fedlab_attacks.reading import batch_size, unchanged, uncounted

METHOD = "sparse batch"
FEWEST = 12
"""Units that a record must open in a batch: a wrong one passes each with even odds."""


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
        # One seed for all: each is attacked alone as in company.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return each(
            observations,
            lambda one: self._solve(one, threat, victim, torch.Generator().manual_seed(seed)),
            method=METHOD,
            report=report,
        )

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
        unchanged(victim, *names)
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
        unsure = [uncounted(observation, threat, victim)]
        if 1 < product.rank and solved.open_units < FEWEST:
            unsure.append(f"a record opens {solved.open_units} units, too few to tell it from a mixture")
        if not solved.contradictions and search.rivalled(solved):
            unsure.append("other records explain it as well")
        certificate = _certificate(product, solved, batch, biased, unsure)
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


def _certificate(
    product: Factored, solved: Solved, batch: int | None, biased: bool, unsure: Sequence[str]
) -> Certificate:
    """What is proven about the records, and what is left open beside what `unsure` says."""
    rank, records = product.rank, batch or product.rank
    explained = solved.cotangents @ solved.inputs
    values = product.measured.values
    left = [why for why in unsure if why]
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
