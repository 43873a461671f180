"""The network that clients train, as a server holds it: what was sent is in it, and nothing that was not.

A recorded network is one client's copy. Tensors that no message carries (a head of its own, batch-norm
statistics) are that client's secret: they are drawn anew before anybody sees the network. Frozen parameters
are public, as a pretrained body is, unless clients hold different ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlab.apps.contract import Arrays, Recording
from fedlab.apps.pixels import PixelRange
from fedlab.tasks.functional import initialise

WRAPPERS = {"OptimizedModule": "_orig_mod", "GradSampleModule": "_module", "DataParallel": "module"}
"""Modules around the network that change nothing of what it computes, and where it is in them."""


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without torch.compile's, Opacus's or DataParallel's wrapper."""
    while (name := WRAPPERS.get(type(network).__name__)) is not None:
        network = getattr(network, name)
    return network


def without_traces(network: nn.Module) -> nn.Module:
    """`network`, which may be changed, without what Opacus hangs on its modules and parameters."""
    if type(network).__name__ == "GradSampleModule":
        plain: nn.Module = network.to_standard_module()  # type: ignore[operator]
        return plain
    return network


def unsent(network: nn.Module, sent: Sequence[str]) -> frozenset[str]:
    """Names of learned parameters that no message carries."""
    learned = {name for name, value in network.named_parameters() if value.requires_grad}
    return frozenset(learned - set(sent))


def own_to_each(recordings: Sequence[Recording]) -> frozenset[str]:
    """Names of parameters that are not the same with all clients before they train."""
    first, *others = ({**unwrapped(one.network or nn.Identity()).state_dict()} for one in recordings)
    return frozenset(
        name
        for name, value in first.items()
        if any(name in other and not torch.equal(other[name], value) for other in others)
    )


def as_sent(
    network: nn.Module,
    before: Arrays,
    names: Mapping[str, str],
    seed: int,
    own: frozenset[str] = frozenset(),
) -> nn.Module:
    """A copy with what the server sent, and with what it did not send drawn anew; `own` parameters, too,
    where they are frozen."""
    made = copy.deepcopy(network)
    sent = set(names.values())
    frozen = {name for name, value in made.named_parameters() if not value.requires_grad} - own
    secret = {name for name in made.state_dict() if name not in sent | frozen}
    owners = {name.rpartition(".")[0] for name in secret}
    initialise(lambda: _drawn_anew(made, owners, secret), seed)
    state = made.state_dict()
    with torch.no_grad():
        for key, name in names.items():
            state[name].copy_(torch.as_tensor(before[key]).reshape(state[name].shape))
    return made


def _drawn_anew(network: nn.Module, owners: set[str], secret: set[str]) -> nn.Module:
    for name, module in network.named_modules():
        if name not in owners:
            continue
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for own, value in module.named_parameters(recurse=False):
            if (f"{name}.{own}" if name else own) in secret:
                nn.init.normal_(value, std=0.02)
    return network


class FromPixels(nn.Module):
    """The network behind the map from pixels in [0, 1] (B, C, H, W) to what it is fed (B, *inner)."""

    low: Tensor
    span: Tensor

    def __init__(self, network: nn.Module, pixels: PixelRange, inner: Sequence[int]) -> None:
        super().__init__()
        self.network, self.inner = network, tuple(inner)
        self.register_buffer("low", pixels.low, persistent=False)
        self.register_buffer("span", pixels.high - pixels.low, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network((self.low + x * self.span).reshape(-1, *self.inner))
        return outputs


PREFIX = "network."
"""What stands before the network's own names in `FromPixels`."""
