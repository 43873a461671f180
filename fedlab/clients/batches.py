"""The mini-batches of a whole cohort, padded and stacked, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab import seeds
from fedlab.clients.config import ClientConfig
from fedlab.clients.plan import Plan
from fedlab.clients.rules import Batch, LocalRule
from fedlab.tasks import Dataset, FunctionalModel, State

RESIDENT_BYTES = 256 << 20
"""Data sets up to this size are converted to float32 once, and stay on the device."""


@dataclass(frozen=True)
class ClientJob:
    """One client's work in one round: where it starts, which records it uses in which step."""

    client: int
    round: int
    state: State
    memory: State
    records: np.ndarray
    plan: Plan


class Batches:
    """Cuts the batches of cohorts out of one data set.

    Short batches are filled up with rows of weight zero, as far as the longest of the step. Dropout
    masks and a rule's random draws come from (seed, round, client, step), and only for real rows:
    padding must not move a client's own stream.
    """

    def __init__(
        self,
        data: Dataset,
        model: FunctionalModel,
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.data, self.model, self.rule = data, model, rule
        self.config, self.seed, self.device = config, seed, device
        self._drops = config.mode == "train" and bool(model.mask_shapes)
        self._draws = type(rule).draws is not LocalRule.draws
        everything = np.arange(len(data))
        resident = 4 * len(data) * int(np.prod(data.shape)) <= RESIDENT_BYTES
        self._images = data.images(everything).to(device) if resident else None
        self._labels = data.labels(everything).to(device)

    def sizes(self, jobs: Sequence[ClientJob]) -> Tensor:
        """(clients,) configured (expected) batch sizes."""
        asked = self.config.batch_size
        sizes = [float(min(asked or len(job.records), len(job.records))) for job in jobs]
        return torch.tensor(sizes, device=self.device)

    def step(self, jobs: Sequence[ClientJob], sizes: Tensor, step: int) -> Batch:
        """The batches of one step; a client whose plan has ended gets padding only."""
        picks = [job.records[job.plan[step]] if step < len(job.plan) else job.records[:0] for job in jobs]
        lengths = [len(pick) for pick in picks]
        longest = max(1, *lengths)
        rows = torch.ones(len(jobs), longest)
        if min(lengths) == longest:
            ids = np.stack(picks)
        else:
            ids = np.empty((len(jobs), longest), dtype=np.int64)
            for i, (job, pick) in enumerate(zip(jobs, picks, strict=True)):
                ids[i, : len(pick)] = pick
                ids[i, len(pick) :] = job.records[0]  # any record: its weight is zero
                rows[i, len(pick) :] = 0.0
        where = torch.from_numpy(ids).to(self.device)
        return Batch(
            x=self._pixels(ids, where),
            y=self._labels[where],
            rows=rows.to(self.device),
            masks=self._stacked(
                [self._masks(job, step, n, longest) for job, n in zip(jobs, lengths, strict=True)]
            )
            if self._drops
            else {},
            draws=self._stacked([self._draw(job, step) for job in jobs]) if self._draws else {},
            size=sizes,
        )

    def _pixels(self, ids: np.ndarray, where: Tensor) -> Tensor:
        """(clients, batch, C, H, W)."""
        if self._images is not None:
            return self._images.index_select(0, where.reshape(-1)).reshape(*ids.shape, *self.data.shape)
        return self.data.images(ids.reshape(-1)).reshape(*ids.shape, *self.data.shape).to(self.device)

    def _masks(self, job: ClientJob, step: int, real: int, longest: int) -> State:
        generator = seeds.torch_generator(self.seed, "dropout", job.round, job.client, step)
        drawn = self.model.draw_masks(real, generator)
        if real == longest:
            return drawn
        return {
            n: torch.cat([mask, mask.new_ones(longest - real, *mask.shape[1:])]) for n, mask in drawn.items()
        }

    def _draw(self, job: ClientJob, step: int) -> State:
        generator = seeds.torch_generator(self.seed, "rule", job.round, job.client, step)
        return self.rule.draws(self.model.parameters_of(job.state), generator)

    def _stacked(self, states: Sequence[State]) -> State:
        return {name: value.to(self.device) for name, value in stack(states).items()}


def stack(states: Sequence[State]) -> State:
    """One state with a leading client axis."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
