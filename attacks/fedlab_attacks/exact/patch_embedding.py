"""Learned positions give each token's cotangent away, and with them the patches: no label, dropout or not.

J. Lu et al., "APRIL: Finding the Achilles' Heel on Privacy for Vision Transformers", CVPR 2022,
https://arxiv.org/abs/2112.14087, section 3. A transformer embeds the patches p_t (n,) of an image and adds
positions, z_t = W p_t + b + e_t. With δ_t = ∂L/∂z_t of one record,

    ∂L/∂e_t = δ_t,        ∂L/∂W = Σ_t δ_t p_tᵀ,        ∂L/∂b = Σ_t δ_t.

The second is linear in the patches, with d equations for the T unknowns of each of the n columns. The
solution is unique exactly if δ_1, ..., δ_T are linearly independent, hence never for T > d. Whatever
follows, dropout, depth, the loss and its label, only changes δ.

Deviations: APRIL's closed form reads the attention's input off the first attention module and then inverts
the embedding; this system asks nothing of what follows the positions. The network is recognised by trying
(`embedding`). Several steps on the same one record obey the same equations; steps on other records, or a
batch, do not, and then nothing is answered. Where the system has a null space, the answer is its solution
nearest to grey, and the certificate gives the dimension.
Without dropout cotangents are nearly equal, and rounding matters: equations are weighted by what it leaves of
them, and a layer further in sharpens the answer (`token_span`).
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
from fedlab_attacks.exact.algebra import SUMS, certify, measured, solve
from fedlab_attacks.exact.embedding import Embedding, recognise
from fedlab_attacks.exact.token_span import Equations, sharpened
from fedlab_attacks.reading import batch_size, disguised, unchanged

METHOD = "patch embedding"
OUTSIDE = 0.05
"""How far a unique solution's pixels may lie outside [0, 1] before it is no image."""


class PatchEmbedding(Attack):
    """Solves for the patches of a transformer with learned positions: one record, no label, dropout on."""

    needs: ClassVar = frozenset()
    paper: ClassVar[str] = "Lu et al., APRIL, CVPR 2022 (its insight; the system is simpler)"
    exact: ClassVar[bool] = True

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
        try:
            found: Embedding | NotApplicable = recognise(victim, generator) if observations else _NOBODY
            if isinstance(found, Embedding):
                unchanged(victim, f"{found.layer}.weight", f"{found.layer}.bias", found.positions)
        except NotApplicable as error:
            found = error
        for done, observation in enumerate(observations, start=1):
            if isinstance(found, NotApplicable):
                answers.append(Reconstruction.refused(found, Certificate.refused(METHOD, str(found))))
            else:
                records, doubt = batch_size(observation, threat), disguised(threat, victim)
                answers.append(solved(observation, victim, found, records, doubt))
            report(done, len(observations))
        return answers


_NOBODY = NotApplicable("there is nothing to attack")


def solved(
    observation: Observation, victim: Victim, embedding: Embedding, records: int | None, doubt: str = ""
) -> Reconstruction:
    """The image of one record, or why the update is not one record's; `records` if their number is known.

    `doubt` is what stands against a proof that it is a record.
    """
    weight = measured(observation, f"{embedding.layer}.weight")
    positions = measured(observation, embedding.positions)
    delta = embedding.cotangents(positions.values)
    tokens, width = delta.shape
    pixels = embedding.pixels
    # Solved around grey: what the equations leave open then stays grey.
    grey = (0.5 * pixels.scale + pixels.shift).reshape(tokens, -1)
    right = weight.values - delta.T @ grey
    found = solve(delta.T, right, positions.rounding)
    if found.null_space and records is not None and records > 1:
        why = f"{records} records, and {tokens} tokens of rank {found.rank}: anything would fit"
        return Reconstruction.refused(why, Certificate.refused(METHOD, why))
    patches = grey + found.value
    if found.null_space == 0:
        patches = _weighted(observation, victim, embedding, delta, weight.values)
    size = float(weight.values.norm())
    misfit = float((weight.values - delta.T @ patches).norm()) / max(size, 1e-300)
    noise = (weight.noise**2 + (positions.noise * float(patches.norm(dim=1).max())) ** 2) ** 0.5
    certificate = certify(
        METHOD,
        f"{tokens} patches",
        rank=found.rank,
        unknowns=tokens,
        condition=found.condition,
        residual=misfit,
        tolerance=noise / max(size, 1e-300),
        null_space=found.null_space * weight.values.shape[1],
        open_=doubt
        if found.rank == tokens
        else f"{tokens} tokens, of which {found.rank} have a cotangent apart",
    )
    image = pixels.image(patches)
    certificate = _confirmed(certificate, observation, embedding, delta, image)
    if certificate.verdict == "not applicable":
        return Reconstruction.refused(certificate.reason, certificate)
    return Reconstruction(
        images=image.float().nan_to_num(nan=0.5).clamp(0.0, 1.0)[None],
        residual=misfit,
        details={"tokens": tokens, "width": width, "rank": found.rank, "condition": found.condition},
        certificates=(certificate,),
    )


def _weighted(
    observation: Observation, victim: Victim, embedding: Embedding, delta: Tensor, weight: Tensor
) -> Tensor:
    """(T, n) patches where they are unique: each equation counts as much as rounding leaves of it.

    The bias tells the sum of the cotangents' own rounding, which spoils every column in proportion to its
    mean pixel: what it tells is one more unknown, taken out of all equations.
    """
    share = _shares(observation, embedding, delta, weight)
    left, right = share * delta.T, share * weight
    if embedding.bias and left.shape[0] > left.shape[1]:
        bias = measured(observation, f"{embedding.layer}.bias").values
        rounded = share * (bias - delta.sum(0)[:, None])
        rounded = rounded / rounded.norm().clamp(min=1e-300)
        left = left - rounded @ (rounded.T @ left)
        right = right - rounded @ (rounded.T @ right)
    known = Equations(left.T, right)
    patches: Tensor = torch.linalg.lstsq(left, right).solution
    if embedding.normed is None:
        return patches
    return sharpened(
        patches,
        known,
        observation,
        victim,
        embed=observation.before[f"{embedding.layer}.weight"].double().reshape(weight.shape),
        rows=embedding.rows,
        pixels=embedding.pixels,
        normed=embedding.normed,
    )


def _shares(observation: Observation, embedding: Embedding, delta: Tensor, weight: Tensor) -> Tensor:
    """(d, 1) weights of the d equations: one over the size of their rounding, for patches of size one."""
    before = observation.before
    sent = embedding.cotangents(before[embedding.positions].double())
    left = (sent.square() + (SUMS * delta).square()).sum(0)
    sent = before[f"{embedding.layer}.weight"].double().reshape(weight.shape)
    right = (sent.square() + (SUMS * weight).square()).mean(1)
    shares = (left / 4 + right).sqrt().reciprocal()[:, None]
    return shares / shares.max()


def _confirmed(
    certificate: Certificate, observation: Observation, embedding: Embedding, delta: Tensor, image: Tensor
) -> Certificate:
    """What the system itself cannot check where it has as many equations as unknowns.

    The bias must have changed by the sum of the cotangents, and a unique image must have pixels in its box.
    """
    if certificate.verdict == "not applicable":
        return certificate
    reason = ""
    if embedding.bias:
        bias = measured(observation, f"{embedding.layer}.bias")
        off = float((bias.values.flatten() - delta.sum(0)).norm())
        allowed = bias.noise + measured(observation, embedding.positions).noise * len(delta) ** 0.5
        if off > allowed:
            reason = f"the bias changed otherwise than the positions tell ({off:.1e}, rounding {allowed:.1e})"
    if certificate.null_space == 0 and not reason:
        outside = float((image - 0.5).abs().max()) - 0.5
        if outside > OUTSIDE:
            reason = f"the solution is no image: pixels {outside:.2g} outside [0, 1]"
    return replace(certificate, verdict="not applicable", reason=reason) if reason else certificate
