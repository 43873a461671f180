"""Protocol knobs as a defense: larger batches, more local steps, other rates, statistics that stay at home.

What they do to reconstruction is an effect and no guarantee: an update over more records or steps leaves
attacks more unknowns (Geiping et al., NeurIPS 2020, https://arxiv.org/abs/2003.14053; Dimitrov et al., TMLR
2022, https://arxiv.org/abs/2206.12395, who unroll the steps), and batch-norm statistics that are not sent
leave an attack on clients in training mode to estimate them (Valadi et al., 2025,
https://arxiv.org/abs/2508.19819).

A client that withholds its statistics sends those back that it got, so that the server's model keeps the ones
it began with: choose a norm without statistics if accuracy at the server counts.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedlab.audit.defense import Defense
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.rules import LocalRule, WrappedRule
from fedlab.errors import UsageError


class Protocol(Defense):
    """Clients train with another batch size, number of steps or rate, or keep their batch-norm statistics.

    Geiping et al., NeurIPS 2020, https://arxiv.org/abs/2003.14053, for what batches and steps change; Valadi
    et al., 2025, https://arxiv.org/abs/2508.19819, for statistics.

    Args:
        batch_size: records per step; 0 for all of them.
        local_steps: mini-batch steps per round.
        local_epochs: passes per round instead.
        learning_rate: of the clients.
        share_buffers: whether batch-norm statistics leave the client.
    """

    paper = (
        "Geiping et al., Inverting Gradients, NeurIPS 2020, https://arxiv.org/abs/2003.14053; Valadi et al.,"
        " 2025, https://arxiv.org/abs/2508.19819"
    )
    example: ClassVar[dict[str, Any]] = {"batch_size": 64}
    adaptive: tuple[str, ...] = ("cascade", "local-steps")  # larger batches are solved for, steps unrolled

    def __init__(
        self,
        *,
        batch_size: Annotated[int, Field(ge=0)] | None = None,
        local_steps: Annotated[int, Field(ge=1)] | None = None,
        local_epochs: Annotated[int, Field(ge=1)] | None = None,
        learning_rate: Annotated[float, Field(gt=0)] | None = None,
        share_buffers: bool = True,
    ) -> None:
        told = {
            "batch_size": (batch_size, 0),
            "local_steps": (local_steps, 1),
            "local_epochs": (local_epochs, 1),
        }
        for name, (count, least) in told.items():
            if count is not None and count < least:
                raise UsageError(f"{name} = {count}; expected at least {least}")
        if learning_rate is not None and not 0.0 < learning_rate < math.inf:
            raise UsageError(f"learning_rate = {learning_rate}; expected a finite number above 0")
        if local_steps is not None and local_epochs is not None:
            raise UsageError(
                f"local_steps = {local_steps}, local_epochs = {local_epochs}; expected one of them: a round"
                " is counted in steps or in passes"
            )
        given = {
            "batch_size": batch_size,
            "local_steps": local_steps,
            "local_epochs": local_epochs,
            "learning_rate": learning_rate,
        }
        self.changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.share_buffers = share_buffers
        if not self.changes and share_buffers:
            raise UsageError(
                "protocol changes nothing as it is set; give at least one of batch_size, local_steps,"
                " local_epochs, learning_rate, share_buffers = false"
            )
        if not share_buffers:  # statistics that are not sent can be estimated
            self.adaptive = (*self.adaptive, "gia-estimate")

    def config(self, config: ClientConfig) -> ClientConfig:
        if "local_epochs" in self.changes:
            config = replace(config, local_steps=None)
        return replace(config, **self.changes)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return rule if self.share_buffers else DiscreetRule(rule)


class DiscreetRule(WrappedRule):
    """Another rule, whose clients send no batch-norm statistics of theirs."""

    def __init__(self, inner: LocalRule) -> None:
        super().__init__(inner)
        self.shares_buffers = False
