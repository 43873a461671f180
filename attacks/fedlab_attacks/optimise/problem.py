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

from fedlab.audit.disclosure import Sent
from fedlab.audit.observation import Observation
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import State
from fedlab_attacks.reading import steps

SMALL = 0.1
"""Share of the median of what was sent from which on the least of it tells what was left out."""

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
        target: the observed gradient (V, ...) of each shared parameter that no defense is known to distort,
            of unit length over all together; of several steps, the mean step.
        norm: the length that was divided out (V,). It has the gradient's scale only where the learning rate
            and the number of steps are known.
        labels: (V, R) of the records, by their rows in `Variables.images`.
        training: whether batch norm uses the batch's statistics.
        client: how the client trained; None is one step over all records.
        order: (V, U) which of the R records each use of the client's steps is of; empty where candidates have
            an image per use.
        owner: (V,) which victim a row is of; restarts of one victim share it.
        statistics: what priors assume about the inputs of norm layers; put there by recipes.
        sent: what of the target carries a value, as far as the defense is known.
        least: (V,) magnitude above which every coordinate of the target was sent; 0 where that is not known.
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
    sent: Sent = "all"
    least: Tensor = field(default_factory=lambda: torch.empty(0))

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
        """Stack observations with their labels (V, R), one row per observation.

        Raises:
            NotApplicable: the clients' defense distorts every parameter.
        """
        targets, norms = [], []
        names = [name for name in victim.shared if name not in victim.disclosure.distorted]
        if not names:
            raise NotApplicable("the clients' defense distorts all that they send")
        for observation in observations:
            count = steps(observation) if client is None else len(client.sizes)
            scale = -(observation.config.learning_rate or 1.0) * count
            gradient = {name: value / scale for name, value in observation.update.items()}
            shared = {name: gradient[name].double() for name in names}
            norm = torch.sqrt(torch.stack([value.square().sum() for value in shared.values()]).sum())
            targets.append({n: (v / norm).to(observation.before[n].dtype) for n, v in shared.items()})
            norms.append(norm.to(torch.get_default_dtype()))
        granted = all(observation.buffers_after for observation in observations)
        after = stack([one.buffers_after for one in observations], device) if granted else {}
        target = stack(targets, device)
        return Problem(
            victim,
            stack([victim.model.parameters_of(one.before) for one in observations], device),
            stack([one.buffers_before for one in observations], device),
            after,
            target,
            torch.stack(norms).to(device),
            labels.to(device),
            training,
            client,
            torch.arange(len(observations), device=device),
            sent=_sent(victim, observations),
            least=least_sent(target),
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
            least=self.least[rows] if len(self.least) else self.least,
            statistics={n: (mean[rows], variance[rows]) for n, (mean, variance) in self.statistics.items()},
        )

    def repeat(self, restarts: int) -> Problem:
        """Each row `restarts` times, neighbours."""
        return self.pick(torch.arange(len(self), device=self.device).repeat_interleave(restarts))

    @cached_property
    def scratch(self) -> list[Tensor]:
        """Room for one tensor per target; what is written there lasts until the next iteration."""
        return [torch.empty_like(value) for value in self.target.values()]


def _sent(victim: Victim, observations: Sequence[Observation]) -> Sent:
    """Of what one client sends; a sum of several clients' signs has sizes."""
    found = victim.disclosure.sent
    return "all" if found == "signs" and any(len(one.parts) > 1 for one in observations) else found


def least_sent(target: State) -> Tensor:
    """(V,) the least magnitude other than 0, where it is of the size of the others; else 0."""
    sizes = torch.cat([value.flatten(1).abs() for value in target.values()], dim=1)
    sizes = torch.where(sizes > 0, sizes, torch.nan)
    least, middle = sizes.nan_to_num(nan=torch.inf).amin(1), sizes.nanmedian(dim=1).values
    return torch.where(least >= SMALL * middle, least, 0.0)


def pick(state: State, rows: Tensor) -> State:
    """Some rows of each tensor."""
    return {name: value[rows] for name, value in state.items()}


def stack(states: Sequence[State], device: torch.device | str = "cpu") -> State:
    """States of single victims, one row each."""
    return {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}


def like(rows: Tensor, value: Tensor) -> Tensor:
    """(V,) shaped to broadcast against (V, ...)."""
    return rows.view(-1, *([1] * (value.dim() - 1)))
