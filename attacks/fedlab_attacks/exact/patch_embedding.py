"""Learned positions give each token's cotangent away, and with them the patches: no label, dropout or not.

J. Lu et al., "APRIL: Finding the Achilles' Heel on Privacy for Vision Transformers", CVPR 2022,
https://arxiv.org/abs/2112.14087, section 3. A transformer embeds the patches p_t (n,) of an image and adds
positions, z_t = W p_t + b + e_t. With δ_t = ∂L/∂z_t of one record,

    ∂L/∂e_t = δ_t,        ∂L/∂W = Σ_t δ_t p_tᵀ,        ∂L/∂b = Σ_t δ_t.

The second is linear in the patches, with d equations for the T unknowns of each of the n columns. The
solution is unique exactly if δ_1, ..., δ_T are linearly independent, hence never for T > d. Whatever
follows, dropout, depth, the loss and its label, only changes δ.

Deviations: APRIL's closed form reads the attention's input off the first attention module and then inverts
the embedding; this system asks nothing of what follows the positions. The network is recognised by trying,
not by name: the first linear or convolutional layer must be fed with pixels, and some parameter must, on
random weights and random dropout masks, have exactly the cotangents of that layer's output as its gradient
(rows for further tokens, such as a class token's, are left out). Several steps on the same one record obey
the same equations; steps on other records, or a batch, do not, and then nothing is answered. Where the system
has a null space, the answer is its solution nearest to grey, and the certificate gives the dimension.
Equations are weighted by what rounding leaves of them: without dropout cotangents are nearly equal, and it
matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.exact.algebra import SUMS, certify, measured, solve
from fedlab_attacks.exact.pixels import PixelMap, doubled, trial_images
from fedlab_attacks.reading import batch_size, probe

METHOD = "patch embedding"
SAME = 1e-6
"""Relative difference below which two gradients in float64 are the same."""
OUTSIDE = 0.05
"""How far a unique solution's pixels may lie outside [0, 1] before it is no image."""


@dataclass(frozen=True)
class Embedding:
    """How a network embeds patches.

    Attributes:
        layer: name of the linear or convolutional layer; `bias`: whether it has one.
        positions: name of the parameter that has the cotangents as its gradient.
        rows: (T,) which of its rows belongs to each token; `width`: d.
        channels_first: whether it is laid out (d, T) instead of (T, d).
        pixels: from the tokens, (T * n,), to the image.
    """

    layer: str
    bias: bool
    positions: str
    rows: Tensor
    width: int
    channels_first: bool
    pixels: PixelMap

    def cotangents(self, gradient: Tensor) -> Tensor:
        """(T, d) from the positions' gradient, of whatever shape it is."""
        return as_rows(gradient, self.width, self.channels_first)[self.rows]


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
        except NotApplicable as error:
            found = error
        for done, observation in enumerate(observations, start=1):
            if isinstance(found, NotApplicable):
                answers.append(Reconstruction.refused(found, Certificate.refused(METHOD, str(found))))
            else:
                answers.append(solved(observation, found, batch_size(observation, threat)))
            report(done, len(observations))
        return answers


_NOBODY = NotApplicable("there is nothing to attack")


def solved(observation: Observation, embedding: Embedding, records: int | None) -> Reconstruction:
    """The image of one record, or why the update is not one record's; `records` if their number is known."""
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
    if found.null_space == 0:
        share = _shares(observation, embedding, delta, weight.values)
        found = replace(found, value=torch.linalg.lstsq(share * delta.T, share * right).solution)
    patches = grey + found.value
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
        open_=""
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
    if certificate.proves and not reason:
        outside = float((image - 0.5).abs().max()) - 0.5
        if outside > OUTSIDE:
            reason = f"the solution is no image: pixels {outside:.2g} outside [0, 1]"
    return replace(certificate, verdict="not applicable", reason=reason) if reason else certificate


def recognise(victim: Victim, generator: torch.Generator) -> Embedding:
    """The embedding of a network that adds learned positions to its patches.

    Raises:
        NotApplicable: it has none, or nothing says the cotangents.
    """
    model = victim.model
    # What is asked is of the structure, and random weights have no accidents (a classifier of zeros).
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name in model.parameter_names
        else value
        for name, value in doubled(model.state()).items()
    }
    masks = doubled(model.draw_masks(4, generator))
    seen = probe(victim, state, trial_images(victim.input_shape), masks or None)
    first = next((one for one in seen if isinstance(one.layer, nn.Linear | nn.Conv2d)), None)
    if first is None:
        raise NotApplicable("the network has no linear or convolutional layer")
    own = (f"{first.name}.weight", f"{first.name}.bias")
    if own[0] not in victim.shared:
        raise NotApplicable(f"the weights of {first.name} are frozen, or stay with the client")
    fed = tokens_of(first.layer, first.input)
    pixels = PixelMap.read(fed, victim.input_shape)
    tokens, width = fed.shape[1], len(first.layer.get_parameter("weight"))
    cotangents, gradients = _gradients(victim, first.name, first.layer, state, generator)
    if cotangents.shape != (tokens, width):
        raise NotApplicable(f"the first layer's output is {tuple(cotangents.shape)}, not one vector a patch")
    for name in victim.shared:
        gradient = gradients[name]
        for channels_first in (False, True):
            if name in own or gradient.dim() < 2 or gradient.numel() % width:
                continue
            table = as_rows(gradient, width, channels_first)
            if len(table) < tokens:
                continue
            distance, rows = torch.cdist(cotangents, table).min(dim=1)
            same = bool((distance <= SAME * cotangents.norm(dim=1)).all())
            if same and len(set(rows.tolist())) == tokens:
                bias = f"{first.name}.bias" in victim.shared
                return Embedding(first.name, bias, name, rows, width, channels_first, pixels)
    raise NotApplicable(
        "no parameter has the cotangents of the patch embedding as its gradient (fixed positions, or none,"
        " or something between the patches and their positions)"
    )


def _gradients(
    victim: Victim, name: str, layer: nn.Module, state: State, generator: torch.Generator
) -> tuple[Tensor, State]:
    """Gradients of a random function of the network: (T, d) by that layer's output, and by parameter."""
    model = victim.model
    learned = {key: state[key].clone().requires_grad_() for key in victim.shared}
    image = torch.rand(1, *victim.input_shape, generator=generator, dtype=torch.float64)
    masks = doubled(model.draw_masks(1, generator))
    outputs: list[Tensor] = []

    def note(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        outputs.append(output.clone())
        return outputs[-1]

    hook = layer.register_forward_hook(note)
    try:
        found, _ = model({**state, **learned}, image, training=False, masks=masks or None)
    finally:
        hook.remove()
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    slopes = torch.autograd.grad(
        (found * weights).sum(), [outputs[0], *learned.values()], allow_unused=True, materialize_grads=True
    )
    own = slopes[0][0]
    cotangents = own.reshape(-1, own.shape[-1]) if isinstance(layer, nn.Linear) else own.flatten(1).T
    return cotangents, dict(zip(learned, slopes[1:], strict=True))


def tokens_of(layer: nn.Module, fed: Tensor) -> Tensor:
    """(B, T, n): the patches that the layer maps, from its input.

    Raises:
        NotApplicable: a convolution in groups, or with a padding that is not of zeros.
    """
    if isinstance(layer, nn.Linear):
        return fed.reshape(len(fed), -1, layer.in_features)
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise NotApplicable(
            f"the first layer is {layer}; expected one group, and a padding of zeros in numbers"
        )
    size = layer.kernel_size
    return functional.unfold(fed, size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)


def as_rows(gradient: Tensor, width: int, channels_first: bool) -> Tensor:
    """(rows, d) from a parameter of positions (..., rows, d) or (..., d, rows)."""
    return gradient.reshape(width, -1).T if channels_first else gradient.reshape(-1, width)
