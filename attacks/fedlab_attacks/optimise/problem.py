"""What is to be explained: observed updates, the networks that they changed, and what is known of the client.

Every tensor has a leading axis V of rows, which are victims times restarts; victims may come from different
rounds, so parameters have it too. Rows do not interact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.tasks import State
from fedlab_attacks.reading import steps

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and biased variance (V, C) of what each norm layer is given, by the layer's name."""


@dataclass(frozen=True)
class LocalPlan:
    """A client's local training, where that is more than one plain step over all its records.

    Attributes:
        sizes: records in each step; the first step uses the first `sizes[0]`, the next those that follow, and
            one that is used twice counts twice.
        learning_rate, momentum, weight_decay: of plain SGD.
    """

    sizes: tuple[int, ...]
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def uses(self) -> int:
        """Records over all steps, each as often as it is used."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Problem:
    """Observed updates, stacked.

    Attributes:
        parameters, buffers: what the clients were sent (V, ...), personal parameters included.
        after: buffers after the round (V, ...); empty if they are not granted.
        target: the observed gradient (V, ...) of each shared parameter, of unit length over all together; of
            several steps, the mean step.
        norm: the length that was divided out (V,). It has the gradient's scale only where the learning rate
            and the number of steps are known.
        labels: (V, R) of the records, by their rows in `Variables.images`.
        training: whether batch norm uses the batch's statistics.
        client: how the client trained; None is one step over all records.
        order: (V, U) which of the R records each use of the client's steps is of; empty where candidates have
            an image per use.
        owner: (V,) which victim a row is of; restarts of one victim share it.
        statistics: what priors assume about the inputs of norm layers; put there by recipes.
    """

    victim: Victim
    parameters: State
    buffers: State
    after: State
    target: State
    norm: Tensor
    labels: Tensor
    training: bool
    client: LocalPlan | None
    owner: Tensor
    statistics: Statistics = field(default_factory=dict)
    order: Tensor = field(default_factory=lambda: torch.empty(0))

    @staticmethod
    def of(
        victim: Victim,
        observations: Sequence[Observation],
        labels: Tensor,
        *,
        training: bool,
        client: LocalPlan | None = None,
        device: torch.device | str = "cpu",
    ) -> Problem:
        """Stack observations with their labels (V, R), one row per observation."""
        targets, norms = [], []
        for observation in observations:
            count = steps(observation) if client is None else len(client.sizes)
            scale = -(observation.config.learning_rate or 1.0) * count
            gradient = {name: value / scale for name, value in observation.update.items()}
            shared = {name: gradient[name].double() for name in victim.shared}
            norm = torch.sqrt(torch.stack([value.square().sum() for value in shared.values()]).sum())
            targets.append({n: (v / norm).to(observation.before[n].dtype) for n, v in shared.items()})
            norms.append(norm.to(torch.get_default_dtype()))
        granted = all(observation.buffers_after for observation in observations)
        after = stack([one.buffers_after for one in observations], device) if granted else {}
        return Problem(
            victim,
            stack([victim.model.parameters_of(one.before) for one in observations], device),
            stack([one.buffers_before for one in observations], device),
            after,
            stack(targets, device),
            torch.stack(norms).to(device),
            labels.to(device),
            training,
            client,
            torch.arange(len(observations), device=device),
        )

    def __len__(self) -> int:
        return len(self.norm)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.norm.device

    def pick(self, rows: Tensor) -> Problem:
        """The problem of some rows, in that order; a row may come several times (restarts)."""
        return replace(
            self,
            parameters=pick(self.parameters, rows),
            buffers=pick(self.buffers, rows),
            after=pick(self.after, rows),
            target=pick(self.target, rows),
            norm=self.norm[rows],
            labels=self.labels[rows],
            owner=self.owner[rows],
            order=self.order[rows] if len(self.order) else self.order,
            statistics={n: (mean[rows], variance[rows]) for n, (mean, variance) in self.statistics.items()},
        )

    def repeat(self, restarts: int) -> Problem:
        """Each row `restarts` times, neighbours."""
        return self.pick(torch.arange(len(self), device=self.device).repeat_interleave(restarts))

    @cached_property
    def scratch(self) -> list[Tensor]:
        """Room for one tensor per target; what is written there lasts until the next iteration."""
        return [torch.empty_like(value) for value in self.target.values()]


def pick(state: State, rows: Tensor) -> State:
    """Some rows of each tensor."""
    return {name: value[rows] for name, value in state.items()}


def stack(states: Sequence[State], device: torch.device | str = "cpu") -> State:
    """States of single victims, one row each."""
    return {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}


def like(rows: Tensor, value: Tensor) -> Tensor:
    """(V,) shaped to broadcast against (V, ...)."""
    return rows.view(-1, *([1] * (value.dim() - 1)))
