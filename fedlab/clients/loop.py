"""The local training loop, for a whole cohort at once.

Clients are stacked: parameters, momentum and buffers carry a client axis, and each step is one
`torch.func.vmap` over it. Unequal clients are padded: short batches with rows of weight zero, short
plans with steps that change nothing. Batch norm ignores padded rows (`fedlab.tasks.layers`), so a
stacked client learns what it would learn alone. A cohort of one is padded with a copy of itself,
because a single client would take other kernels and differ in the last bits.

SGD is torch.optim.SGD's: v <- momentum v + (g + weight_decay w); w <- w - lr v.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from fedlab import seeds
from fedlab.clients.config import ClientConfig
from fedlab.clients.plan import Plan
from fedlab.clients.rules import Aux, Batch, Carry, LocalRule
from fedlab.tasks import Dataset, FunctionalModel, State


@dataclass(frozen=True)
class ClientJob:
    """One client's work in one round: where it starts, which records it uses in which step."""

    client: int
    round: int
    state: State
    memory: State
    records: np.ndarray
    plan: Plan


@dataclass(frozen=True)
class ClientResult:
    """What one client sends back: parameters and buffers, its memory, its mean training loss."""

    state: State
    memory: State
    loss: float
    steps: int


class LocalTraining:
    """Trains cohorts of clients on one model, data set and local rule."""

    def __init__(
        self,
        model: FunctionalModel,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: Dataset,
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
    ) -> None:
        self.model, self.loss, self.data = model, loss, data
        self.rule, self.config, self.seed = rule, config, seed

    def __call__(self, jobs: Sequence[ClientJob]) -> list[ClientResult]:
        """Train every job of one round from its own state; results in the jobs' order."""
        if len(jobs) == 1:
            return self([jobs[0], jobs[0]])[:1]
        state = _stack([job.state for job in jobs])
        anchor = self.model.parameters_of(state)
        buffers = self.model.buffers_of(state)
        parameters = anchor
        memory = _stack([job.memory for job in jobs])
        carry: Carry = vmap(self.rule.start, in_dims=(0, 0, None))(anchor, memory, {})
        velocity = {name: torch.zeros_like(value) for name, value in anchor.items()}
        losses = torch.zeros(len(jobs), dtype=torch.float64)
        counts = torch.tensor([float(len(job.plan)) for job in jobs])
        for step in range(max(len(job.plan) for job in jobs)):
            new = vmap(self._step)(parameters, buffers, velocity, carry, self._batch(jobs, step))
            active = torch.tensor([step < len(job.plan) for job in jobs])
            if not bool(active.all()):  # a client whose plan has ended stays where it is
                old = (parameters, buffers, velocity, carry, torch.zeros(len(jobs)))
                new = tree_map(functools.partial(_select, active), new, old)
            parameters, buffers, velocity, carry, loss = new
            losses += loss.double()
        sent, memory = vmap(self.rule.finish)(anchor, parameters, counts, carry)
        results = []
        for i, job in enumerate(jobs):
            results.append(
                ClientResult(
                    state={name: value[i] for name, value in (sent | buffers).items()},
                    memory={name: value[i] for name, value in memory.items()},
                    loss=float(losses[i]) / max(len(job.plan), 1),
                    steps=len(job.plan),
                )
            )
        return results

    def _step(
        self, parameters: State, buffers: State, velocity: State, carry: Carry, batch: Batch
    ) -> tuple[State, State, State, Carry, Tensor]:
        """One client's step, mapped over clients."""

        def objective(values: State, part: Batch) -> tuple[Tensor, Aux]:
            outputs, after = self.model(
                {**values, **buffers},
                part.x,
                training=self.config.mode == "train",
                masks=part.masks,
                rows=part.rows,
            )
            losses = self.loss(outputs, part.y) * part.rows
            mean = losses.sum() / part.rows.sum().clamp(min=1.0)
            return mean, Aux(mean.detach(), after)

        direction, aux, carry = self.rule.direction(grad(objective, has_aux=True), parameters, batch, carry)
        config = self.config
        slope = {n: d + config.weight_decay * parameters[n] for n, d in direction.items()}
        velocity = {n: config.momentum * velocity[n] + s for n, s in slope.items()}
        parameters = {n: parameters[n] - config.learning_rate * v for n, v in velocity.items()}
        after = aux.buffers if self.rule.shares_buffers else buffers
        return parameters, after, velocity, carry, aux.loss

    def _batch(self, jobs: Sequence[ClientJob], step: int) -> Batch:
        """The cohort's batches of one step, padded to the longest and stacked."""
        picks = [job.plan[step] if step < len(job.plan) else job.plan[0][:0] for job in jobs]
        longest = max(1, *(len(pick) for pick in picks))
        ids = np.zeros((len(jobs), longest), dtype=np.int64)
        rows = torch.zeros(len(jobs), longest)
        for i, (job, pick) in enumerate(zip(jobs, picks, strict=True)):
            ids[i, : len(pick)] = job.records[pick]
            ids[i, len(pick) :] = job.records[0]  # any record: its weight is zero
            rows[i, : len(pick)] = 1.0
        flat = ids.reshape(-1)
        shape = (len(jobs), longest)
        return Batch(
            x=self.data.images(flat).reshape(*shape, *self.data.shape),
            y=self.data.labels(flat).reshape(shape),
            rows=rows,
            masks=_stack([self._masks(job, step, longest) for job in jobs]),
            draws=_stack([self._draws(job, step) for job in jobs]),
            size=torch.tensor(
                [float(min(self.config.batch_size or len(j.records), len(j.records))) for j in jobs]
            ),
        )

    def _masks(self, job: ClientJob, step: int, batch: int) -> State:
        if self.config.mode == "eval" or not self.model.mask_shapes:
            return {}
        generator = seeds.torch_generator(self.seed, "dropout", job.round, job.client, step)
        real = len(job.plan[step]) if step < len(job.plan) else 0
        # Only real rows are drawn for: padding must not move a client's own stream.
        return {
            name: torch.cat([mask, mask.new_ones(batch - real, *mask.shape[1:])])
            for name, mask in self.model.draw_masks(real, generator).items()
        }

    def _draws(self, job: ClientJob, step: int) -> State:
        generator = seeds.torch_generator(self.seed, "rule", job.round, job.client, step)
        return self.rule.draws(self.model.parameters_of(job.state), generator)


def _select(active: Tensor, moved: Tensor, kept: Tensor) -> Tensor:
    """`moved` for the clients that are active (clients,), `kept` for the others."""
    return torch.where(active.view(-1, *([1] * (kept.dim() - 1))), moved, kept)


def _stack(states: Sequence[State]) -> State:
    """One state with a leading client axis."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
