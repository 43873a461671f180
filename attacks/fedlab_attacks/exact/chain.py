"""A network read as a chain: linear maps, and an injective function of each entry between them.

Nothing is recognised by name. A probing pass records what each layer was fed and gave; what lies between two
layers is then one of a few known functions, or it is not undone here. Masks drawn at random show where units
are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.exact.pixels import PixelMap, doubled, trial_images

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bend:
    """An increasing function of one number, and its inverse."""

    name: str
    forward: Function
    inverse: Function

    def slope(self, z: Tensor) -> Tensor:
        """The derivative at z."""
        with torch.enable_grad():
            at = z.detach().clone().requires_grad_()
            found: Tensor = torch.autograd.grad(self.forward(at).sum(), at)[0]
        return found


def leaky(slope: float) -> Bend:
    """z above zero, slope * z below."""

    def bent(z: Tensor) -> Tensor:
        return torch.where(z > 0, z, slope * z)

    return Bend(f"leaky ReLU {slope:g}", bent, lambda a: torch.where(a > 0, a, a / slope))


BENDS = (
    Bend("identity", lambda z: 1.0 * z, lambda a: a),
    Bend("tanh", torch.tanh, lambda a: torch.atanh(a.clamp(-1 + 1e-15, 1 - 1e-15))),
    Bend("sigmoid", torch.sigmoid, lambda a: torch.logit(a, eps=1e-15)),
    Bend("elu", functional.elu, lambda a: torch.where(a > 0, a, torch.log1p(a.clamp(min=-1 + 1e-15)))),
    Bend("softplus", functional.softplus, lambda a: a + torch.log(-torch.expm1(-a.clamp(min=1e-15)))),
)


@dataclass(frozen=True)
class Link:
    """One layer, and what lies between the layer before it and itself.

    Attributes:
        name, layer: the layer; shape: of its input, without the batch axis.
        bend: from the previous layer's output to this one's input; None of the first layer.
        rate: of the dropout in front of it; 0 without.
    """

    name: str
    layer: nn.Module
    shape: torch.Size
    bend: Bend | None
    rate: float


@dataclass(frozen=True)
class Chain:
    """The layers from the pixels to the first linear layer with a bias, which ends it."""

    links: tuple[Link, ...]
    pixels: PixelMap


@dataclass(frozen=True)
class _Pass:
    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor


def read_chain(victim: Victim, state: State, generator: torch.Generator) -> Chain:
    """The chain at the front of the network, for parameters and buffers `state`.

    Raises:
        NotApplicable: the network does not begin as a chain of such layers, or what lies between two of them
            is not undone.
    """
    model, images = victim.model, trial_images(victim.input_shape)
    state = doubled({**model.state(), **state})
    open_ = _passes(victim, state, images, {})
    masks = doubled(model.draw_masks(len(images), generator))
    masked = _passes(victim, state, images, masks) if masks else open_
    if not open_ or len(open_) != len(masked):
        raise NotApplicable("the network has no layers with parameters, or they depend on dropout")
    if len({one.name for one in open_}) < len(open_):
        raise NotApplicable("a layer is used twice")
    pixels = PixelMap.read(masked[0].input, victim.input_shape)
    if masked[0].input[0].numel() != len(set(pixels.index.tolist())):
        raise NotApplicable("the first layer sees pixels more than once")
    links: list[Link] = []
    for number, one in enumerate(open_):
        if not isinstance(one.layer, nn.Linear | nn.Conv2d):
            raise NotApplicable(f"{one.name} is {type(one.layer).__name__}, neither linear nor a convolution")
        if f"{one.name}.weight" not in victim.shared:
            raise NotApplicable(f"the weights of {one.name} are frozen, or stay with the client")
        bend, rate = None, 0.0
        if number:
            before = open_[number - 1]
            bend = _between(before, one)
            rate = _dropout(bend.forward(masked[number - 1].output), masked[number].input, one.name)
        links.append(Link(one.name, one.layer, one.input.shape[1:], bend, rate))
        if isinstance(one.layer, nn.Linear) and one.layer.bias is not None:
            return Chain(tuple(links), pixels)
    raise NotApplicable("no linear layer of the network has a bias, whose change would give its input")


def _between(before: _Pass, after: _Pass) -> Bend:
    """What turns one layer's output into the next one's input.

    Raises:
        NotApplicable: no known injective function of each entry does.
    """
    where = f"between {before.name} and {after.name}"
    z, a = before.output.flatten(1), after.input.flatten(1)
    if z.shape != a.shape:
        raise NotApplicable(
            f"{z.shape[1]} values become {a.shape[1]} {where}: pooling or another path loses or adds some"
        )
    negative = (z < -1e-3) & (z > -1e3)
    slopes = a[negative] / z[negative]
    guess = float(slopes.median()) if slopes.numel() else 1.0
    tried = (*BENDS, leaky(guess)) if 0.0 < guess < 1.0 else BENDS
    for bend in tried:
        if torch.allclose(bend.forward(z), a, rtol=1e-6, atol=1e-7):
            return bend
    for lost in (functional.relu, functional.gelu, functional.silu, functional.hardtanh):
        if torch.allclose(lost(z), a, rtol=1e-6, atol=1e-7):
            raise NotApplicable(
                f"the {lost.__name__} {where} is not injective: several inputs give its output"
            )
    raise NotApplicable(
        f"what lies {where} is no known injective function of each value (norms, pooling and skip connections"
        " are not undone)"
    )


def _dropout(expected: Tensor, fed: Tensor, name: str) -> float:
    """The rate at which values are dropped on their way into layer `name`."""
    expected, fed = expected.flatten(1), fed.flatten(1)
    ratio = (fed / expected)[expected.abs() > 1e-9]
    kept = ratio[ratio != 0.0]
    factor = float(kept.median()) if kept.numel() else 1.0
    if not torch.allclose(kept, torch.full_like(kept, factor), rtol=1e-5):
        raise NotApplicable(f"what {name} is fed depends on dropout in more ways than one")
    return 1.0 - 1.0 / factor


def _passes(victim: Victim, state: State, images: Tensor, masks: State) -> list[_Pass]:
    """Every layer with parameters of its own, in the order in which they run."""
    passes: list[_Pass] = []
    hooks = []
    for name, module in victim.model.net.named_modules():
        if any(True for _ in module.parameters(recurse=False)):

            def note(layer: nn.Module, fed: tuple[Tensor, ...], gave: Tensor, name: str = name) -> None:
                passes.append(_Pass(name, layer, fed[0].detach(), gave.detach()))

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            victim.model(state, images, training=False, masks=masks or None)
    finally:
        for hook in hooks:
            hook.remove()
    return passes
