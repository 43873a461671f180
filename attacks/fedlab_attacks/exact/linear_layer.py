"""The closed form: a linear first layer writes its input into its own gradient.

With z = W x + b and δ = ∂L/∂z the layer's gradients are ∂W = Σ_i δ_i x_iᵀ and ∂b = Σ_i δ_i over the records
of a batch. L. T. Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE
TIFS 13(5), 2018, https://doi.org/10.1109/TIFS.2017.2787987; J. Geiping et al., NeurIPS 2020,
https://arxiv.org/abs/2003.14053, proposition 3.1. What comes after the layer, dropout too, only changes δ.

- One record, bias: every row with ∂b_k ≠ 0 gives x = ∂W_k / ∂b_k. All rows are used, weighted by ∂b_k²
  (least squares, float64), since rounding of the update hits small rows hardest.
- A batch, bias: a unit that one record alone activates still gives that record. Two rows that give the same
  image within `AGREE` vouch for it (two mixtures of records would have to coincide); such images are counted
  in `details["confirmed"]`. The rest of the answer is the best of what is left, and may show mixtures.
- One record, no bias: ∂W has rank one and gives x up to a factor. Its sign follows from pixels being at
  least 0. Its size follows from the second linear layer, if that has a bias: the same closed form gives that
  layer's input, and a search over the factor finds the image that produces it. Otherwise the brightest pixel
  is taken to be 1; `details["scale"]` says which.
- A batch, no bias: only the span of the records is determined; refused.

Of an update that was left out in part, or of which signs alone were sent, a single record is read as far as
that goes (`partly_sent`); nothing else is.

Several local steps, momentum and weight decay leave all this as it is, for ∂W is then a sum of the same
products with other δ; a batch is all the records that were used.

The certificate says "unique" of one record if [∂W ∂b] has rank one up to rounding, and it is known that there
is but one: with two classes and nothing in between, the cotangents of all records are parallel, and a mixture
of any number has rank one too. Of a batch it does so only if a ReLU follows and every record is confirmed and
proven: the rows of the units that a record leaves shut must have a rank less than all rows have, since
nothing of it is in them, and no record may have a part in a unit that it leaves shut once the update is
written as a sum over all of them (a mixture that is mostly one record passes the first test, not the second).
What is confirmed alone is "not unique": with r of B records known, (B - r)(B - 1) numbers stay free in the
mixing of the rest. The residual is ‖[∂W ∂b] - A [X 1]‖ / ‖[∂W ∂b]‖ for the answer X with the best A.
Elementwise affine normalisation before the layer is undone. Deviations from the papers: all rows instead of
one, batches, bias-free layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab_attacks.exact.algebra import Spectrum, certify, measured, solve, spectrum
from fedlab_attacks.exact.each import each
from fedlab_attacks.exact.first_layer import ZERO, first_layer, rectified, weights
from fedlab_attacks.exact.partly_sent import of_signs, partly
from fedlab_attacks.exact.second_layer import second_layer_size
from fedlab_attacks.reading import Seen, batch_size, unchanged, uncounted

METHOD = "linear layer"
AGREE = 1e-3
"""Root mean square difference, in pixels, below which two rows give the same image."""
ROWS = 1024
RANK_TOLERANCE = 1e-4
SHUT = 4.0
"""Units of rounding above which a record has a part in a unit."""


class LinearLayer(Attack):
    """Reads the input of a linear first layer off its gradients."""

    needs: ClassVar = frozenset()
    exact: ClassVar[bool] = True
    informed: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Phong et al., IEEE TIFS 2018; Geiping et al., Inverting Gradients, NeurIPS 2020, proposition 3.1"
    )

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
        biased = first.layer.bias is not None
        names = [f"{first.name}.weight", f"{first.name}.bias"][: 1 + biased]
        update = measured(observation, *names)
        if victim.disclosure.sent != "all" and biased and batch_size(observation, threat) == 1:
            unchanged(replace(victim, disclosure=replace(victim.disclosure, sent="all")), *names)
            read = of_signs if victim.disclosure.sent == "signs" else partly
            doubt = uncounted(observation, threat, victim)
            return read(METHOD, update, scale, shift, victim.input_shape, doubt)
        unchanged(victim, *names)
        table, pixels = update.values, len(scale)
        weight = table[:, :pixels]
        found = spectrum(table, update.rounding)
        if not float(found.singular[0]) > 0.0:
            raise NotApplicable("the first layer's weights did not change")
        singular = torch.linalg.svdvals(weight)
        rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
        batch = batch_size(observation, threat) or rank
        details: dict[str, float | int | str] = {
            "batch": batch,
            "rank": rank,
            "distance from rank B": float(singular[batch:].norm() / singular.norm()),
        }
        if not biased:
            if batch > 1:
                why = (
                    f"the first layer has no bias: a batch of {batch} determines the span of its records"
                    f" (rank {rank}), not the records"
                )
                return Reconstruction.refused(why, _span(found, batch, why))
            inputs, how = self._without_bias(observation, threat, victim, weight, scale, shift)
            details["scale"] = how
            right, proven = inputs, int(how != "brightest pixel is 1")
            left = "" if proven else "its size is open: the brightest pixel is taken to be 1"
        else:
            bias = table[:, -1]
            if not bool(bias.any()):
                raise NotApplicable("the first layer's biases did not change")
            details["bias gradient norm"] = float(bias.norm())
            if batch == 1:
                inputs, proven, left = (bias @ weight / bias.square().sum())[None], 1, ""
            else:
                inputs, confirmed = agreeing(weight, bias, scale, shift, batch)
                known = inputs[:confirmed]
                proven = absent(observation, victim, first, known, found, table, generator)
                details |= {"confirmed": confirmed, "proven": proven}
                left = (
                    "" if proven == batch else f"proven: {proven} of {batch} records, confirmed: {confirmed}"
                )
            right = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        residual = solve(right.T, table.T).residual
        certificate = certify(
            METHOD,
            "the record" if batch == 1 else f"{batch} records",
            rank=found.rank,
            unknowns=batch,
            condition=found.condition,
            # an incomplete answer explains nothing; the rank tells whether so many records can
            residual=residual if proven == batch or found.rank > batch else 0.0,
            tolerance=update.tolerance,
            null_space=(batch - proven) * max(batch - 1, 1),
            open_=left or uncounted(observation, threat, victim),
        )
        certificate = replace(certificate, residual=residual)
        if batch == 1 and not left and certificate.verdict != "not applicable":
            details["confirmed"] = 1
        images = ((inputs - shift) / scale).float().nan_to_num(nan=0.5).clamp(0.0, 1.0)
        return Reconstruction(
            images=images.reshape(-1, *victim.input_shape),
            residual=residual,
            details=details,
            certificates=(certificate,),
        )

    def _without_bias(
        self,
        observation: Observation,
        threat: ThreatModel,
        victim: Victim,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
    ) -> tuple[Tensor, str]:
        """The layer's input (1, n) from the direction of a rank-one gradient, and how its size was found."""
        if bool(shift.any()):
            raise NotApplicable(
                "the first layer has no bias and its input is shifted: the sign and size of a rank-one"
                " gradient cannot be fixed by the pixel box"
            )
        direction = torch.linalg.svd(weight, full_matrices=False).Vh[0] / scale
        direction = direction * (1.0 if float(direction.sum()) >= 0.0 else -1.0)
        largest = float(direction.max())
        brightest = direction / max(largest, 1e-30)
        size = second_layer_size(observation, threat, victim, brightest)
        if size is None:
            return (brightest * scale)[None], "brightest pixel is 1"
        return (brightest * size * scale)[None], "second layer"


def agreeing(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, batch: int) -> tuple[Tensor, int]:
    """(batch, n) inputs from rows ∂W_k / ∂b_k, those that most rows agree on first; how many are confirmed.

    Only rows whose image lies in the pixel box can be one record's; a row's own rounding decides how far it
    may stray.
    """
    rows = bias.abs().argsort(descending=True)[:ROWS]
    rows = rows[bias[rows] != 0]
    weight, bias = weight[rows], bias[rows]
    images = (weight / bias[:, None] - shift) / scale
    inside = ((images > -0.05) & (images < 1.05)).all(dim=1)
    near = torch.cdist(images, images) < AGREE * images.shape[1] ** 0.5
    near &= inside[:, None] & inside[None]
    free = torch.ones(len(rows), dtype=torch.bool)
    found: list[Tensor] = []
    while len(found) < batch:
        support = (near & free[None]).sum(dim=1) * free
        if len(support) == 0 or int(support.max()) < 2:
            break
        members = near[support.argmax()] & free
        share = bias[members].square()
        found.append(share @ images[members] / share.sum())
        free &= ~members
    confirmed = len(found)
    # Unconfirmed: rows inside the box first, then by signal; unlike what is there already.
    order = torch.arange(len(rows))[free]
    for k in [*order[inside[order]].tolist(), *order[~inside[order]].tolist()]:
        if len(found) == batch:
            break
        image = images[k].clamp(0.0, 1.0)
        if all(float((image - other).square().mean()) > AGREE for other in found):
            found.append(image)
    while len(found) < batch:  # fewer rows than records: repeat rather than answer with too few
        found.append(found[len(found) % max(confirmed, 1)] if found else images[0].clamp(0.0, 1.0))
    return torch.stack(found) * scale + shift, confirmed


def absent(
    observation: Observation,
    victim: Victim,
    first: Seen,
    inputs: Tensor,
    found: Spectrum,
    table: Tensor,
    generator: torch.Generator,
) -> int:
    """How many of `inputs` (r, n) are proven to be records: the rows of units that they leave shut lack them.

    With a ReLU behind the layer a record has no part in those rows, and their rank is one less than that of
    the whole `table` (m, n + 1). A mixture that is mostly one record has such rows too. So if all pass, none
    may have a part in a unit that it leaves shut when the table is written as a sum over them.
    """
    if not len(inputs) or not rectified(observation, victim, first.layer, generator):
        return 0
    extended = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    before, after = (extended @ sides.T for sides in weights(observation, first))
    shut = (before < -ZERO) & (after < -ZERO)
    proven = sum(
        spectrum(table[rows], found.floor).rank == found.rank - 1 for rows in shut if bool(rows.any())
    )
    if proven < found.rank:
        return proven
    parts = solve(extended.T, table.T)
    # what rounding leaves of a part of a record
    blur = SHUT * found.floor * parts.condition / float(torch.linalg.matrix_norm(extended, 2))
    contradicted = (parts.value.abs() > blur) & shut
    return proven - int(contradicted.any(dim=1).sum())


def _span(found: Spectrum, batch: int, why: str) -> Certificate:
    """A bias-free layer gives the span of a batch: their mixing is open."""
    return Certificate(
        METHOD,
        "not unique",
        f"the span of {batch} records",
        why,
        rank=found.rank,
        unknowns=batch,
        condition=found.condition,
        null_space=batch * batch,
    )
