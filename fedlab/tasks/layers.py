"""Dropout, noise and batch norm as pure functions: masks, noise and row weights come in as named buffers.

torch's own layers draw their masks from a hidden generator and write their statistics in place.
Both stand in the way here: a mask must come from the seed tree (and an attacker must be able to
optimise it), and `torch.func.vmap` over clients needs layers without side effects. These twins take
both through buffers that `torch.func.functional_call` replaces. Deviations from torch: batch norm
keeps no `num_batches_tracked` and always uses an exponential average; rows of weight zero (padding)
leave its statistics alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Keeps what `mask` says: `x * mask / (1 - p)`; without a mask the layer is the identity.

    `mask` is a (B, ...) tensor of 0 and 1 (or, for an attacker, anything between). `channels` gives
    whole channels one common value, as torch's Dropout2d does.
    """

    mask: Tensor | None

    def __init__(self, p: float = 0.5, *, channels: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout p must be in [0, 1), got {p}")
        self.p = p
        self.channels = channels
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask / (1.0 - self.p)

    def mask_shape(self, x: Tensor) -> torch.Size:
        """Shape of one example's mask for the input `x` (B, ...)."""
        if self.channels:
            return torch.Size([x.shape[1], *([1] * (x.dim() - 2))])
        return x.shape[1:]

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", channels=True" if self.channels else "")


class GaussianSample(nn.Module):
    """Draws from a normal distribution whose moments the network computes: `mean + deviation * noise`.

    The stochastic layer of variational bottlenecks (D. Scheliga et al., "PRECODE", WACV 2022,
    https://arxiv.org/abs/2108.04725). `noise` is a (B, ...) tensor of standard normal draws, shaped as the
    mean is; without noise the layer gives the mean.
    """

    noise: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", None, persistent=False)

    def forward(self, mean: Tensor, deviation: Tensor) -> Tensor:
        return mean if self.noise is None else mean + deviation * self.noise


class BatchNorm(nn.Module):
    """Batch normalisation over (B, C, ...), with `rows` (B,) weighing the examples of a batch.

    Training mode normalises with the batch's biased variance and moves the running statistics (the
    unbiased variance, as torch does); evaluation mode uses the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    rows: Tensor | None

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.features, self.eps, self.momentum = features, eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("rows", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        if self.training:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axes = [0, *range(2, x.dim())]
        spatial = x[0, 0].numel()
        if self.rows is None:
            count = torch.full((), float(x.shape[0] * spatial), dtype=x.dtype, device=x.device)
            mean = x.mean(axes)
            var = (x - mean.view([1, -1] + [1] * (x.dim() - 2))).square().mean(axes)
        else:
            weight = self.rows.view([-1] + [1] * (x.dim() - 1))
            count = (self.rows.sum() * spatial).clamp(min=1.0)
            mean = (x * weight).sum(axes) / count
            centred = x - mean.view([1, -1] + [1] * (x.dim() - 2))
            var = (centred.square() * weight).sum(axes) / count
        unbiased = var.detach() * (count / (count - 1.0).clamp(min=1.0))
        # Assigned, not written in place: functional_call hands the new tensors back.
        self.running_mean = torch.lerp(self.running_mean, mean.detach(), self.momentum)
        self.running_var = torch.lerp(self.running_var, unbiased, self.momentum)
        return mean, var

    def extra_repr(self) -> str:
        return f"{self.features}, eps={self.eps}, momentum={self.momentum}"


def _explicit(layer: nn.Module) -> nn.Module | None:
    """The pure twin of one torch layer, or None when the layer needs none."""
    if isinstance(layer, nn.Dropout):
        return Dropout(layer.p)
    if isinstance(layer, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return Dropout(layer.p, channels=True)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        if not (layer.affine and layer.track_running_stats and layer.momentum is not None):
            raise ValueError(
                f"{layer} cannot be vectorised: expected affine=True, track_running_stats=True and"
                " a momentum; use those defaults, or group norm"
            )
        twin = BatchNorm(layer.num_features, eps=layer.eps, momentum=layer.momentum)
        twin.weight, twin.bias = layer.weight, layer.bias
        if layer.running_mean is not None and layer.running_var is not None:
            twin.running_mean, twin.running_var = layer.running_mean, layer.running_var
        return twin
    if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
        raise ValueError(f"{layer} is not supported: use nn.Dropout")
    return None


def make_explicit(net: nn.Module) -> nn.Module:
    """Replace torch's dropout and batch norm in `net` (in place) by their pure twins.

    Raises:
        ValueError: for a layer whose randomness or statistics cannot be made explicit.
    """
    twin = _explicit(net)
    if twin is not None:
        return twin
    for name, child in list(net.named_children()):
        setattr(net, name, make_explicit(child))
    return net
