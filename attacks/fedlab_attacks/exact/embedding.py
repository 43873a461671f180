"""How a network embeds patches, and which parameter tells the cotangents of that: found by trying.

Names say nothing here. The first linear or convolutional layer must be fed with pixels, and some parameter
must, on random weights and random dropout masks, have exactly the cotangents of that layer's output as its
gradient: learned positions (rows for further tokens, such as a class token's, are left out).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.exact.pixels import PixelMap, doubled, trial_images
from fedlab_attacks.exact.token_span import Normed, behind_norms
from fedlab_attacks.reading import probe

SAME = 1e-6
"""Relative difference below which two gradients in float64 are the same."""


@dataclass(frozen=True)
class Embedding:
    """How a network embeds patches.

    Attributes:
        layer: name of the linear or convolutional layer; `bias`: whether it has one.
        positions: name of the parameter that has the cotangents as its gradient.
        rows: (T,) which of its rows belongs to each token; `width`: d.
        channels_first: whether it is laid out (d, T) instead of (T, d).
        pixels: from the tokens, (T * n,), to the image.
        normed: layers further in that sharpen the answer.
    """

    layer: str
    bias: bool
    positions: str
    rows: Tensor
    width: int
    channels_first: bool
    pixels: PixelMap
    normed: Normed | None

    def cotangents(self, gradient: Tensor) -> Tensor:
        """(T, d) from the positions' gradient, of whatever shape it is."""
        return as_rows(gradient, self.width, self.channels_first)[self.rows]


def recognise(victim: Victim, generator: torch.Generator) -> Embedding:
    """The embedding of a network that adds learned positions to its patches.

    Raises:
        NotApplicable: it has none, or nothing says the cotangents.
    """
    model = victim.model
    # What is asked is of the structure, and random weights have no accidents (a classifier of zeros).
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
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
                normed = behind_norms(seen, state, victim.shared, width)
                return Embedding(first.name, bias, name, rows, width, channels_first, pixels, normed)
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
