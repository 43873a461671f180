"""Send each coordinate as one of few levels, rounded at random.

Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding", NeurIPS 2017, https://arxiv.org/abs/1610.02132, section 3.1. In each bucket v of coordinates, with
s levels,

    sent_i = ‖v‖₂ sign(v_i) ξ_i,   ξ_i = (l + 1)/s with probability s |v_i|/‖v‖₂ - l, else l/s,
    l = ⌊s |v_i| / ‖v‖₂⌋,

so that its expectation is v and its variance at most min(b/s², √b/s) ‖v‖² for buckets of b (lemma 3.1).

Deviation: bytes are counted for a fixed number of bits per coordinate, ⌈log₂(2 s + 1)⌉, and a float32 per
bucket (the paper's Elias code is shorter where most levels are 0).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab_defenses.updates.transform import TransformedRule


class QSGD(Defense):
    """Rounds each coordinate at random to one of `levels` sizes of its bucket's norm; right on average.

    Args:
        levels: s, sizes above 0.
        bucket: coordinates that share a norm.
    """

    paper = "Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD, NeurIPS 2017, https://arxiv.org/abs/1610.02132"
    adaptive = ("cascade",)

    def __init__(
        self, *, levels: Annotated[int, Field(ge=1)] = 16, bucket: Annotated[int, Field(ge=1)] = 512
    ) -> None:
        for name, value in (("levels", levels), ("bucket", bucket)):
            if value < 1:
                raise UsageError(f"qsgd {name} = {value}; expected at least 1")
        self.levels, self.bucket = levels, bucket

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "qsgd", self.rounded, draw=_uniform, secure=federation.secure)

    def rounded(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,) on its levels."""
        size = update.numel()
        over = -size % self.bucket
        buckets, chance = (
            functional.pad(value, (0, over)).reshape(-1, self.bucket) for value in (update, draws["chance"])
        )
        norms = buckets.norm(dim=1, keepdim=True)
        heights = self.levels * buckets.abs() / norms.clamp_min(1e-30)
        levels = heights.floor() + (chance < heights.frac())
        rounded: Tensor = norms * buckets.sign() * levels / self.levels
        return rounded.reshape(-1)[:size]

    def uplink_bytes(self, values: int) -> float:
        bits = math.ceil(math.log2(2 * self.levels + 1))
        return values * bits / 8 + 4.0 * math.ceil(values / self.bucket)


def _uniform(size: int, generator: torch.Generator) -> State:
    return {"chance": torch.rand(size, generator=generator)}
