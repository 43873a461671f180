"""A linear or convolutional layer as a linear map of its input, and the equations that it obeys.

Both are z (O, P) = W (O, K) · patches (K, P) + b, where patch p gathers K entries of the input (all of them,
for a linear layer with its P = 1). The output says W · patches = z - b; the gradient of the weights, given
the output's cotangent δ (O, P), says δ · patchesᵀ = ∂L/∂W. Both are linear in the input x (n,), and their
normal equations are sums of small matrices scattered to where the patches lie: no (O P, n) matrix is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlab.errors import NotApplicable

LARGEST = 6144
"""Inputs of a layer whose normal equations, 8 n² bytes, are still factorised."""


@dataclass(frozen=True)
class LinearMap:
    """Weights (O, K), bias (O,), and which entry of the input (n,) each place of a patch is (n: padding)."""

    weight: Tensor
    bias: Tensor
    index: Tensor
    inputs: int

    @classmethod
    def of(cls, layer: nn.Module, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> LinearMap:
        """The map of `layer` on one input of `shape` (..., without the batch axis), in float64.

        Raises:
            NotApplicable: a convolution in groups or with another padding than zeros, another kind of layer,
                or one too large to be factorised.
        """
        inputs = shape.numel()
        if inputs > LARGEST:
            raise NotApplicable(
                f"a layer has {inputs} inputs; its normal equations would take {8e-9 * inputs**2:.1f} GB (at"
                f" most {LARGEST} inputs are solved for)"
            )
        if isinstance(layer, nn.Conv2d) and len(shape) == 3:
            if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise NotApplicable(f"{layer} is in groups, or not padded with zeros by number")
            # Numbered from 1, so that the zeros of the padding have a number of their own.
            numbers = torch.arange(1, inputs + 1, dtype=torch.float64).reshape(1, *shape)
            placed = functional.unfold(
                numbers, layer.kernel_size, layer.dilation, layer.padding, layer.stride
            )[0]
            index = torch.where(placed > 0, placed - 1, inputs).long()
        elif isinstance(layer, nn.Linear) and len(shape) == 1:
            index = torch.arange(inputs)[:, None]
        else:
            raise NotApplicable(
                f"{type(layer).__name__} on {tuple(shape)} is neither linear nor a convolution"
            )
        flat = weight.double().flatten(1)
        return cls(flat, flat.new_zeros(len(flat)) if bias is None else bias.double(), index, inputs)

    @property
    def outputs(self) -> int:
        """O P, the number of equations that the output gives."""
        return len(self.weight) * self.index.shape[1]

    def patches(self, x: Tensor) -> Tensor:
        """(K, P) from x (n,)."""
        return torch.cat([x, x.new_zeros(1)])[self.index]

    def apply(self, x: Tensor) -> Tensor:
        """W · patches (O, P), without the bias."""
        return self.weight @ self.patches(x)

    def adjoint(self, delta: Tensor) -> Tensor:
        """(n,): the transpose of `apply`, which turns the output's cotangent (O, P) into the input's."""
        return self._gather(self.weight.T @ delta)

    def gradient(self, x: Tensor, delta: Tensor) -> Tensor:
        """(O, K): the weights' gradient for input x and the output's cotangent (O, P)."""
        return delta @ self.patches(x).T

    def gradient_adjoint(self, change: Tensor, delta: Tensor) -> Tensor:
        """(n,): the transpose of `gradient` in x, for a change of the weights (O, K)."""
        return self._gather(change.T @ delta)

    def normal(self, share: Tensor | None = None) -> Tensor:
        """(n, n) normal matrix of `apply`, its equations weighted by `share` (O, P) if given."""
        size = self.inputs + 1
        total = self.weight.new_zeros(size, size)
        common = self.weight.T @ self.weight if share is None else None
        for place in range(self.index.shape[1]):
            at = self.index[:, place]
            if common is None:
                assert share is not None
                block = self.weight.T @ (share[:, place, None] * self.weight)
            else:
                block = common
            _scatter(total, at, block)
        return total[:-1, :-1]

    def gradient_normal(self, delta: Tensor) -> Tensor:
        """(n, n) normal matrix of `gradient` in x."""
        size = self.inputs + 1
        total = self.weight.new_zeros(size, size)
        block = delta.T @ delta
        for at in self.index:
            _scatter(total, at, block)
        return total[:-1, :-1]

    def _gather(self, patches: Tensor) -> Tensor:
        total = patches.new_zeros(self.inputs + 1)
        return total.index_add(0, self.index.flatten(), patches.flatten())[:-1]


def _scatter(total: Tensor, at: Tensor, block: Tensor) -> None:
    """total[at, at] += block; places of the padding may repeat."""
    total.view(-1).index_add_(0, (at[:, None] * len(total) + at[None]).flatten(), block.flatten())


@dataclass(frozen=True)
class Factor:
    """A factorised normal matrix N = L Lᵀ (n, n).

    Attributes:
        lower: L, or None where N is singular.
        rank, condition: of the equations (not of N, whose condition is the square).
    """

    lower: Tensor | None
    rank: int
    condition: float

    @classmethod
    def of(cls, normal: Tensor) -> Factor:
        """Cholesky where N is regular; its eigenvalues are counted only where it is not."""
        size = len(normal)
        largest = _largest(lambda v: normal @ v, size)
        floor = size * torch.finfo(normal.dtype).eps
        lower, failed = torch.linalg.cholesky_ex(normal)
        if not int(failed) and largest > 0.0:
            smallest = 1.0 / _largest(lambda v: torch.cholesky_solve(v[:, None], lower)[:, 0], size)
            if smallest > floor * largest:
                return cls(lower, size, (largest / smallest) ** 0.5)
        values = torch.linalg.eigvalsh(normal)
        rank = int((values > floor * values[-1]).sum()) if float(values[-1]) > 0.0 else 0
        return cls(None, rank, float("inf"))

    def solve(self, right: Tensor) -> Tensor:
        """N⁻¹ right, (n,)."""
        assert self.lower is not None
        return torch.cholesky_solve(right[:, None], self.lower)[:, 0]

    def spread(self, generator: torch.Generator) -> Tensor:
        """(n,) of the size of the solution's errors, for equations with independent errors of size 1."""
        assert self.lower is not None
        noise = torch.randn(len(self.lower), 1, generator=generator, dtype=self.lower.dtype)
        found: Tensor = torch.linalg.solve_triangular(self.lower.T, noise, upper=True)
        return found[:, 0]


def _largest(apply: Callable[[Tensor], Tensor], size: int, iterations: int = 30) -> float:
    """Largest eigenvalue of a positive semidefinite map, by power iteration from a fixed random start."""
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = 0.0
    for _ in range(iterations):
        vector = apply(vector / vector.norm())
        value = float(vector.norm())
        if not value > 0.0:
            return 0.0
    return value
