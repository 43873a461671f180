"""One record in a linear first layer, of an update that a defense has thinned out.

The layer's update is [∂W ∂b] = δ [xᵀ 1] (`linear_layer`).

- Where coordinates were left out, each of the others is still an equation: x_j = ∂W_kj / ∂b_k for every unit
  k of which both were sent; by least squares, weighted by ∂b_k². A pixel without any is taken to be black:
  coordinates are left out because they are small, and black pixels give none at all. There are more
  equations than unknowns: where they disagree beyond rounding (what was sent was noised or rounded, or is
  not one record's), the least squares are answered without any proof. The certificate counts the pixels that
  no equation has; "unique" takes two equations per unknown, so that nothing else fits.
- Where signs alone were sent, sign ∂W_kj sign ∂b_k = sign x_j says which side of 0 the layer's input is on,
  which is to say (inputs being pixels, perhaps shifted) which pixels are above a known level: those that are
  not black, without a shift. The answer is the middle of what is left open, never unique.

Zeros tell what was left out only if the client left anything out; who does not know that reads them as
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlab.audit.attack import Reconstruction
from fedlab.audit.certificate import Certificate
from fedlab.errors import NotApplicable
from fedlab_attacks.exact.algebra import Measured, certify

EQUATIONS = 2
"""Equations per unknown from which on their agreement is proof."""


def partly(
    method: str, update: Measured, scale: Tensor, shift: Tensor, input_shape: Sequence[int], doubt: str
) -> Reconstruction:
    """The record from the coordinates that were sent.

    Args:
        update: (m, n + 1) of the layer, zero where nothing was sent.
        scale, shift: (n,) the layer is fed scale * pixels + shift.
        doubt: what stands against a proof.

    Raises:
        NotApplicable: no bias was sent.
    """
    rows = update.values[update.values[:, -1] != 0]
    if not len(rows):
        raise NotApplicable("no bias of the first layer was sent, which a row is divided by")
    weight, bias = rows[:, :-1], rows[:, -1:]
    told = weight != 0
    share = (bias.square() * told).sum(0)
    known = share > 0
    inputs = torch.where(known, (bias * weight).sum(0) / share.clamp_min(1e-300), shift)
    misfit = float(((weight - bias * inputs) * told).norm()) / max(float(weight.norm()), 1e-300)
    equations, unknowns, open_ = int(told.sum()), len(shift), int((~known).sum())
    certificate = certify(
        method,
        "the record",
        rank=unknowns - open_,
        unknowns=unknowns,
        condition=float(bias.abs().max() / bias.abs().min()),
        residual=misfit,
        # a row is divided by its bias, whose rounding counts as often as the layer has inputs
        tolerance=update.tolerance * (1.0 + float(inputs.norm())),
        null_space=open_,
        open_=doubt
        or ("" if equations >= EQUATIONS * unknowns else f"{equations} equations for {unknowns} pixels"),
    )
    if open_ and certificate.verdict == "not unique":
        certificate = replace(certificate, reason=f"nothing was sent of {open_} pixels, taken to be black")
    return _answer((inputs - shift) / scale, input_shape, certificate, misfit)


def of_signs(
    method: str, update: Measured, scale: Tensor, shift: Tensor, input_shape: Sequence[int], doubt: str
) -> Reconstruction:
    """The record as far as signs tell; arguments as of `partly`.

    Raises:
        NotApplicable: no bias moved, or the signs are not one record's.
    """
    sizes = update.values.abs()  # one size or 0, but for rounding
    signs = update.values.sign() * (sizes > sizes.max() / 2)
    rows = signs[signs[:, -1] != 0]
    if not len(rows):
        raise NotApplicable("the first layer's biases did not change")
    sides = rows[:, :-1] * rows[:, -1:]
    side = sides.mean(0)
    if bool((side != sides[0]).any()):
        raise NotApplicable("the signs of the first layer's rows disagree, as those of one record cannot")
    level = (-shift / scale).clamp(0.0, 1.0)
    above = side * scale.sign()
    pixels = torch.where(above > 0, (1.0 + level) / 2, torch.where(above < 0, level / 2, level))
    open_ = int((side != 0).sum())
    why = f"of {open_} pixels signs tell only that they are not black" + (f"; {doubt}" if doubt else "")
    certificate = Certificate(
        method, "not unique", "the record's outline", why, len(side) - open_, len(side), 1.0, open_, 0.0
    )
    return _answer(pixels, input_shape, certificate, 0.0)


def _answer(
    pixels: Tensor, input_shape: Sequence[int], certificate: Certificate, residual: float
) -> Reconstruction:
    images = pixels.float().nan_to_num(nan=0.5).clamp(0.0, 1.0).reshape(1, *input_shape)
    return Reconstruction(images=images, residual=residual, details={"batch": 1}, certificates=(certificate,))
