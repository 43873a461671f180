"""Signs of a malicious server in the parameters that a client is sent.

Three attacks need weights that no training makes, and leave marks that can be read off the weights alone:

- **Imprint**: L. Fowl et al., "Robbing the Fed", ICLR 2022, https://arxiv.org/abs/2110.13057. Each row of one
  linear layer measures the same scalar, only the biases differ: the rows are parallel.
- **Trap weights**: F. Boenisch et al., "When the Curious Abandon Honesty", EuroS&P 2023,
  https://arxiv.org/abs/2112.02918. A random half of each row is negative, the other half is the same numbers
  times -γ, so that a unit fires for few records: sorted by size, the two halves are proportional.
- **Fishing**: Y. Wen et al., "Fishing for User Data in Large-Batch Federated Learning", ICML 2022,
  https://arxiv.org/abs/2202.00580. The classifier is emptied but for one class (or one feature of it), and
  biases keep the other classes certain: rows that are exactly zero beside ones that are not, biases far
  larger than any logit.

The papers attack; the readings are ours. Each is a property of honest weights that would have to arise by
chance: parallel rows in a layer of n inputs have probability zero at any initialisation, and training from it
does not produce them. What is not seen: traps whose halves were drawn independently, altered networks whose
weights look honest, and servers that send different honest models to different clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 8
"""Fewer rows than these say nothing."""
PARALLEL, TRAPPED, EMPTY = 0.25, 0.25, 0.5
"""Shares of a layer's rows from which on it is suspicious."""
ALIGNED = 1e-4
"""1 - |cos| of rows that count as parallel."""
PROPORTIONAL = 1e-2
"""Relative spread of the ratio of two sorted halves that count as proportional."""
LARGEST_BIAS = 100.0
"""Logits of such a size make a class certain whatever the record (e^-100 for the others)."""


@dataclass(frozen=True)
class Finding:
    """One sign: in which parameter, of which attack, and what was seen."""

    parameter: str
    attack: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.parameter} looks like {self.attack}: {self.evidence}"


def signs(state: Mapping[str, Tensor]) -> list[Finding]:
    """Everything suspicious in a model's parameters (by name, any shape), most damning first.

    A convolution's kernels are read as rows. Tensors that are not floating point are passed over.
    """
    found = [
        Finding(name, "a broken model", "not finite") for name, value in state.items() if not _sound(value)
    ]
    if found:
        return found
    weights = {n: v.detach().double().flatten(1) for n, v in state.items() if v.dim() >= 2 and _real(v)}
    for name, weight in weights.items():
        found += [*_imprint(name, weight), *_trap(name, weight)]
    last = next((name for name in reversed(weights) if state[name].dim() == 2), None)
    if last is not None:
        bias = state.get(last.removesuffix("weight") + "bias") if last.endswith("weight") else None
        found += _fishing(last, weights[last], bias)
    return found


def _imprint(name: str, weight: Tensor) -> Iterator[Finding]:
    rows = weight[weight.norm(dim=1) > 0]
    if len(rows) < ROWS or rows.shape[1] < 2:
        return
    rows = rows / rows.norm(dim=1, keepdim=True)
    # A row that many share is among a few dozen; comparing all pairs of a wide layer would take too long.
    probes = rows[:: max(1, len(rows) // 64)]
    parallel = ((probes @ rows.T).abs() > 1 - ALIGNED).sum(dim=1)
    most = int(parallel.max())
    if most >= max(ROWS, PARALLEL * len(rows)):
        yield Finding(name, "an imprint layer", f"{most} of {len(rows)} rows are parallel")


def _trap(name: str, weight: Tensor) -> Iterator[Finding]:
    if len(weight) < ROWS or weight.shape[1] < 2 * ROWS:
        return
    half = weight.shape[1] // 2
    ordered = weight.sort(dim=1).values
    negative, positive = -ordered[:, :half], ordered[:, -half:].flip(1)
    split = (negative[:, -1] >= 0) & (positive[:, -1] >= 0) & (negative[:, 0] > 0) & (positive[:, 0] > 0)
    # Small entries are ratios of rounding errors: the larger half of each side is compared.
    large = max(2, half // 2)
    ratio = positive[:, :large] / negative[:, :large].clamp_min(1e-30)
    trapped = split & (ratio.std(dim=1) < PROPORTIONAL * ratio.mean(dim=1))
    count = int(trapped.sum())
    if count >= max(ROWS, TRAPPED * len(weight)):
        yield Finding(
            name,
            "trap weights",
            f"in {count} of {len(weight)} rows the positive entries are the negative ones times"
            f" {float(ratio[trapped].mean()):.2f}",
        )


def _fishing(name: str, weight: Tensor, bias: Tensor | None) -> Iterator[Finding]:
    empty = weight.abs().amax(dim=1) == 0
    if bool(empty.any()) and not bool(empty.all()) and float(empty.double().mean()) >= EMPTY:
        yield Finding(name, "fishing", f"{int(empty.sum())} of {len(weight)} rows of the last layer are zero")
    single = (weight != 0).sum(dim=1) == 1
    if bool(single.any()) and weight.shape[1] >= ROWS and not bool(empty.all()):
        yield Finding(name, "fishing", f"{int(single.sum())} rows of the last layer read a single feature")
    if bias is not None and _real(bias) and float(bias.abs().max()) > LARGEST_BIAS:
        where = name.removesuffix("weight") + "bias"
        yield Finding(where, "fishing", f"a bias of {float(bias.abs().max()):.3g} makes classes certain")


def _real(value: Tensor) -> bool:
    return value.is_floating_point()


def _sound(value: Tensor) -> bool:
    return not _real(value) or bool(torch.isfinite(value).all())
