"""A layer's gradient is spanned by what the layer was fed: a deeper layer sharpens a solution for patches.

J. Lu et al., "APRIL", CVPR 2022, https://arxiv.org/abs/2112.14087, section 3, reads the input of an attention
off its gradient. Here it is a correction. Linear layers behind a layer norm are fed with tokens a_t(p) (d,),
which follow from the patches p by the public weights, and their gradient is G = Σ_t ε_t a_tᵀ. With A (T, d)
the tokens, T < d, and Π the projector on its rows,

    G (I - Π(p)) = 0    whatever the cotangents ε_t are: no label, no loss, nothing of what lies behind.

Near a solution that is one Gauss-Newton step away. The slope is exact, through norm and attention; the
curvature is that of tokens that do not see each other, a_t' = γ C W p_t' / σ_t (C centres, σ_t is the norm's
deviation). Together with the patches' own equations δ it is a sum of two Kronecker products,
(ε εᵀ) x (K Kᵀ) + (δ δᵀ) x 1, which two eigendecompositions invert. Attention does mix tokens, but it matters
only along the few directions that cotangents share where they are nearly equal; δ knows those best, and they
are left out here.

Each system counts as much as its own misfit says, and the step is kept only if both fit better together:
nothing of it needs the truth. Dropout before those layers, or several steps, close it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.tasks import State
from fedlab_attacks.exact.algebra import measured
from fedlab_attacks.exact.pixels import PixelMap, doubled
from fedlab_attacks.reading import Seen, steps

SHARED = 4
"""Leading directions of the cotangents that are left out."""
INDEPENDENT = 1e-9
"""How much of a token, relative to the first, the tokens before it may leave at least."""
ROUNDING = 0.2
"""Root mean square of a stored weight's rounding, in units of eps |w|: the sums' error is about 1 eps."""


@dataclass(frozen=True)
class Normed:
    """A layer norm by name, and the linear layers that are fed with its output."""

    norm: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Equations:
    """`shares` (T, d), transposed, times the patches (T, n) is `right` (d, n), up to even rounding."""

    shares: Tensor
    right: Tensor

    def off(self, patches: Tensor) -> Tensor:
        """(d, n): what the patches do not explain."""
        return self.right - self.shares.T @ patches


def behind_norms(seen: Sequence[Seen], state: State, shared: Sequence[str], width: int) -> Normed | None:
    """The norm to read, out of a probing pass: the second one that feeds linear layers, else the first.

    Behind the first come queries, keys and values, whose cotangents nearly vanish in a fresh network.
    Norms are of tokens (B, T, width).
    """
    found = []
    for place, one in enumerate(seen):
        if not isinstance(one.layer, nn.LayerNorm) or one.input.dim() != 3 or one.input.shape[2] != width:
            continue
        gain, shift = (state.get(f"{one.name}.{part}") for part in ("weight", "bias"))
        output = functional.layer_norm(one.input, one.layer.normalized_shape, gain, shift, one.layer.eps)
        fed = tuple(
            later.name
            for later in seen[place + 1 :]
            if isinstance(later.layer, nn.Linear)
            and f"{later.name}.weight" in shared
            and later.input.shape == output.shape
            and torch.allclose(later.input, output)
        )
        if fed:
            found.append(Normed(one.name, fed))
    return found[min(1, len(found) - 1)] if found else None


def sharpened(
    patches: Tensor,
    known: Equations,
    observation: Observation,
    victim: Victim,
    *,
    embed: Tensor,
    rows: Tensor,
    pixels: PixelMap,
    normed: Normed,
) -> Tensor:
    """Patches (T, n) that the layers behind the norm explain as well, or `patches` if that fails.

    Args:
        known: the equations that `patches` are the least squares of.
        embed: (d, n) what embeds them; rows: (T,) their places among the tokens.
    """
    width, count = known.right.shape
    tokens = len(patches)
    if width <= tokens or steps(observation) > 1 or not _unmasked(observation, victim):
        return patches
    state = doubled({**observation.before, **observation.buffers_before})
    gradient = _even(observation, normed)
    gain = state.get(f"{normed.norm}.weight", torch.ones(width, dtype=gradient.dtype))
    shift = state.get(f"{normed.norm}.bias", torch.zeros(width, dtype=gradient.dtype))
    moving = patches.clone().requires_grad_()
    fed, normal = _normal(victim, state, pixels.image(moving), normed.norm)
    if len(normal) + 1 >= width or int(rows.max()) >= len(normal):
        return patches
    start = _Span.of(gradient, normal.detach(), shift)
    noise = known.off(patches).square().sum() / ((width - tokens) * count)
    other = start.off.square().sum() / (len(gradient) * (width - len(normal) - 1))
    if not float(noise) > 0.0 or not float(other) > 0.0 or not start.independent:
        return patches
    cotangents = start.cotangents()
    (slope,) = torch.autograd.grad(normal, moving, -(cotangents @ start.off) / other)
    slope = slope - known.shares @ known.off(patches) / noise
    # Curvature, in coordinates of the patches in which that of the known equations is 1.
    triangle = torch.linalg.qr(known.shares.T, mode="r").R
    white = torch.linalg.inv(triangle) * noise.sqrt()
    deviation = fed.detach().std(1, correction=0).clamp(min=1e-6)
    among = cotangents[rows] / deviation[rows, None]
    across = gain[:, None] * (embed - embed.mean(0))
    across = across - start.basis @ (start.basis.T @ across)
    weights, turn = torch.linalg.eigh(white.T @ (among @ among.T) @ white / other)
    sizes, axes = torch.linalg.eigh(across.T @ across)
    white = white @ turn
    better = patches - white @ (white.T @ slope @ axes / (1.0 + weights[:, None] * sizes)) @ axes.T
    with torch.no_grad():
        after = _Span.of(gradient, _normal(victim, state, pixels.image(better), normed.norm)[1], shift)
    before = known.off(patches).square().sum() / noise + start.off.square().sum() / other
    now = known.off(better).square().sum() / noise + after.off.square().sum() / other
    return better if bool(now < before) else patches


@dataclass(frozen=True)
class _Span:
    """How a gradient (m, d) lies to the span of tokens (T, d), with the norm's shift as one more direction.

    basis (d, T + 1), inside (m, T + 1), off (m, d). Outside the shift a token's length has no part: there its
    derivative is exactly what the curvature takes it for, as long as tokens do not see each other.
    """

    basis: Tensor
    triangle: Tensor
    inside: Tensor
    off: Tensor

    @classmethod
    def of(cls, gradient: Tensor, normal: Tensor, shift: Tensor) -> _Span:
        basis, triangle = torch.linalg.qr(torch.cat([normal, shift[None]]).T)
        inside = gradient @ basis
        return cls(basis, triangle, inside, gradient - inside @ basis.T)

    @property
    def independent(self) -> bool:
        """Whether the tokens are, so that each has cotangents of its own."""
        sizes = self.triangle.diagonal()[:-1].abs()
        return bool(sizes.min() > INDEPENDENT * sizes.max())

    def cotangents(self) -> Tensor:
        """(T, m), without the directions that they share."""
        found = torch.linalg.solve_triangular(self.triangle[:-1, :-1], self.inside[:, :-1].T, upper=True)
        own = torch.linalg.eigh(found @ found.T).eigenvectors[:, :-SHARED]
        kept: Tensor = own @ (own.T @ found)
        return kept


def _even(observation: Observation, normed: Normed) -> Tensor:
    """(m, d): the gradients of the layers one below the other, each row over the size of its rounding."""
    found = []
    for name in normed.layers:
        change = measured(observation, f"{name}.weight").values
        sent = observation.before[f"{name}.weight"].double()
        rounding = ((ROUNDING * sent).square() + change.square()).mean(1).sqrt()
        found.append(change / rounding.clamp(min=float(rounding.max()) * 1e-6)[:, None])
    return torch.cat(found)


def _unmasked(observation: Observation, victim: Victim) -> bool:
    """Whether the client's pass is the public network's: no dropout, or none in its mode."""
    return not victim.model.dropout_rates or observation.config.mode == "eval"


class _Reached(Exception):
    """The pass has got to where it was wanted."""


def _normal(victim: Victim, state: State, image: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """(T, d) twice: what the norm is fed with for one image, and what it makes of it."""
    seen: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((arguments[0][0], output[0]))
        raise _Reached

    hook = victim.model.net.get_submodule(norm).register_forward_hook(note)
    try:
        with contextlib.suppress(_Reached):
            victim.model(state, image[None], training=False)
    finally:
        hook.remove()
    fed, output = seen
    return fed, output
