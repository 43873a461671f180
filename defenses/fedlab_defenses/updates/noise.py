"""Noise on the update, without an account of it.

As in L. Zhu, Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935,
section 5.1, which tries Gaussian and Laplacian noise of deviations from 1e-4 to 1e-1:

    sent = Δ + z,   z_j independent, of mean 0 and deviation σ;   or σ = relative ‖Δ‖₂ / √d,

so that with `relative` = 1 the noise is about as long as the update.

This is no differential privacy: without clipping one record may move Δ by any amount, no ledger counts the
noise, and with `relative` its size tells the update's. `local-dp`, `user-dp` and `dp-sgd` are accounted for.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.tasks import State
from fedlab_defenses.updates.transform import TransformedRule, positive


class Noise(Defense):
    """Adds noise of a given deviation to every coordinate of the update. Not accounted for: no ε.

    Args:
        deviation: σ, of the noise on each coordinate. Give this or `relative`.
        relative: length of the whole noise over that of the update.
        distribution: of the noise.
    """

    paper = "Zhu, Liu, Han, Deep Leakage from Gradients, NeurIPS 2019, https://arxiv.org/abs/1906.08935"
    example: ClassVar[dict[str, Any]] = {"relative": 1.0}
    adaptive = ("cascade",)

    def __init__(
        self,
        *,
        deviation: Annotated[float, Field(gt=0)] | None = None,
        relative: Annotated[float, Field(gt=0)] | None = None,
        distribution: Literal["gaussian", "laplace"] = "gaussian",
    ) -> None:
        if (deviation is None) == (relative is None):
            raise UsageError(
                f"noise deviation = {deviation}, relative = {relative}; expected exactly one of the two"
            )
        if distribution not in ("gaussian", "laplace"):
            raise UsageError(f'noise distribution = {distribution!r}; expected "gaussian" or "laplace"')
        self.deviation = None if deviation is None else positive("noise deviation", deviation)
        self.relative = None if relative is None else positive("noise relative", relative)
        self.distribution = distribution

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return TransformedRule(rule, "noise", self.noisy, draw=self.drawn, secure=federation.secure)

    def drawn(self, size: int, generator: torch.Generator) -> State:
        """Independent numbers (size,) of mean 0 and deviation 1."""
        if self.distribution == "gaussian":
            return {"unit": torch.randn(size, generator=generator)}
        one, other = torch.empty(2, size).exponential_(generator=generator)
        return {"unit": (one - other) / math.sqrt(2.0)}  # Laplace of scale 1 has variance 2

    def noisy(self, update: Tensor, draws: State) -> Tensor:
        """The update (d,) with noise on it."""
        unit = draws["unit"]
        if self.deviation is not None:
            return update + self.deviation * unit
        assert self.relative is not None
        size: Tensor = update.norm() / math.sqrt(update.numel())
        return update + self.relative * size * unit
