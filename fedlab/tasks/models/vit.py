"""A small vision transformer, its attention written out so that all its randomness is dropout layers.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929.
Deviations: the classifier reads the mean of all tokens (no class token); fixed positions are the
two-dimensional sine and cosine table of Beyer et al. (2022, https://arxiv.org/abs/2205.01580).

Knobs and leaks:

- `positions="learned"` opens a closed form at one example per step: the gradient of the table is
  each token's cotangent (Lu et al., "APRIL", CVPR 2022, https://arxiv.org/abs/2112.14087), so that
  the gradient of the patch embedding is a linear system in the patches. It has one solution when
  there are no more tokens than `dim`. No dropout behind the embedding closes it; `"fixed"` does.
- `patch` sets how many tokens there are: smaller patches, more tokens, up to rank `dim`.
- `first_bias` gives the sum of the cotangents, not each.
- `dropout` (on the embedded tokens, the attention weights and both residual branches) must be
  guessed by attacks that optimise.
- Without `skip` a token reaches the head through attention alone; `order="post"` normalises the sums (as the
  first transformers did), `norm="none"` nothing.
- A larger `depth` and a smaller `dim` leave an optimising attack fewer equations per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fedlab.errors import UsageError
from fedlab.tasks.models.blocks import Activation, activation_layer, at_least, choose, dropout_layer


class Attention(nn.Module):
    """Multi-head self-attention, (B, T, dim) to (B, T, dim): softmax(q k' / sqrt(dim / heads)) v."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        size = dim // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        weights = self.dropout((q @ k.transpose(-2, -1) * size**-0.5).softmax(-1))
        mixed: Tensor = self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return mixed


class Layer(nn.Module):
    """Attention and a two-layer network, each with a layer norm and a skip connection around it.

    The norm stands before the branch (`pre`) or behind the sum (`post`).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        activation: str,
        dropout: float,
        *,
        norm: str = "layer",
        pre: bool = True,
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.pre, self.skip = pre, skip
        self.norm1 = _norm(norm, dim)
        self.attention = Attention(dim, heads, dropout)
        self.dropout1 = dropout_layer(dropout)
        self.norm2 = _norm(norm, dim)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.activation = activation_layer(activation)
        self.linear2 = nn.Linear(mlp_dim, dim)
        self.dropout2 = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self._around(x, self.norm1, lambda h: self.dropout1(self.attention(h)))
        return self._around(
            x, self.norm2, lambda h: self.dropout2(self.linear2(self.activation(self.linear1(h))))
        )

    def _around(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        h = branch(norm(x) if self.pre else x)
        h = x + h if self.skip else h
        return h if self.pre else norm(h)


def _norm(name: str, dim: int) -> nn.Module:
    return nn.LayerNorm(dim) if choose("norm", name, ("layer", "none")) == "layer" else nn.Identity()


class VisionTransformer(nn.Module):
    """Patches, `embed`, `positions`, `layers`, the mean token, `head`: (B, C, H, W) to (B, classes).

    `embed.weight` is (dim, C * patch * patch), each patch flattened in the order C, row, column;
    `positions` is (tokens, dim), a parameter if learned and a buffer if fixed.
    """

    positions: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        patch: int,
        dim: int,
        layers: Sequence[nn.Module],
        learned: bool,
        dropout: float,
        first_bias: bool,
        norm: str,
    ) -> None:
        super().__init__()
        channels, height, breadth = input_shape
        self.patch = patch
        rows, columns = height // patch, breadth // patch
        self.embed = nn.Linear(channels * patch * patch, dim, bias=first_bias)
        if learned:
            self.positions = nn.Parameter(0.02 * torch.randn(rows * columns, dim))
        else:
            self.register_buffer("positions", sine_positions(rows, columns, dim))
        self.dropout = dropout_layer(dropout)
        self.layers = nn.Sequential(*layers)
        self.norm = _norm(norm, dim)
        self.head = nn.Linear(dim, classes)

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, tokens, C * patch * patch), row by row."""
        batch, channels, height, breadth = x.shape
        rows, columns = height // self.patch, breadth // self.patch
        grid = x.reshape(batch, channels, rows, self.patch, columns, self.patch)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * self.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.dropout(self.embed(self.patches(x)) + self.positions)
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


def sine_positions(rows: int, columns: int, dim: int) -> Tensor:
    """(rows * columns, dim): sin and cos of row and column, each at dim / 4 frequencies."""
    frequency = 10000.0 ** (-torch.arange(dim // 4) / (dim / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def vit(
    input_shape: Sequence[int],
    classes: int,
    *,
    patch: int = 4,
    dim: int = 64,
    depth: int = 2,
    heads: int = 4,
    mlp_dim: int = 128,
    positions: Literal["learned", "fixed"] = "learned",
    activation: Activation = "gelu",
    dropout: float = 0.0,
    first_bias: bool = True,
    norm: Literal["layer", "none"] = "layer",
    order: Literal["pre", "post"] = "pre",
    skip: bool = True,
) -> nn.Module:
    """A transformer on patches.

    Args:
        input_shape: (C, H, W) of one image.
        classes: number of logits.
        patch: side of a square patch in pixels; must divide height and width.
        dim: width of a token; a multiple of `heads`, and of 4 for fixed positions.
        depth: number of transformer layers.
        heads: attention heads per layer.
        mlp_dim: hidden units of each layer's network.
        positions: learned (a parameter) or fixed (sine and cosine).
        activation: relu, leaky_relu, gelu, sigmoid or tanh.
        dropout: rate on tokens, attention weights and residual branches.
        first_bias: whether the patch embedding has a bias.
        norm: layer or none.
        order: pre (a norm before each branch) or post (behind each sum).
        skip: whether there are ways around attention and network.

    Raises:
        UsageError: a knob out of range, or sizes that do not divide.
    """
    _, height, breadth = input_shape
    for knob, value in (
        ("patch", patch),
        ("dim", dim),
        ("depth", depth),
        ("heads", heads),
        ("mlp_dim", mlp_dim),
    ):
        at_least(knob, value)
    choose("positions", positions, ("learned", "fixed"))
    choose("order", order, ("pre", "post"))
    if height % patch or breadth % patch:
        raise UsageError(
            f"patch = {patch} does not divide images of {height}x{breadth}; choose one that does"
        )
    if dim % heads:
        raise UsageError(f"dim = {dim} is no multiple of heads = {heads}; choose one that is")
    if positions == "fixed" and dim % 4:
        raise UsageError(f"dim = {dim}; fixed positions need a multiple of 4")
    return VisionTransformer(
        input_shape,
        classes,
        patch=patch,
        dim=dim,
        layers=[
            Layer(dim, heads, mlp_dim, activation, dropout, norm=norm, pre=order == "pre", skip=skip)
            for _ in range(depth)
        ],
        learned=positions == "learned",
        dropout=dropout,
        first_bias=first_bias,
        norm=norm,
    )
