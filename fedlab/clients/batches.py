"""The mini-batches of a whole cohort, padded and stacked, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedlab import seeds
from fedlab.clients.config import ClientConfig
from fedlab.clients.plan import Plan, place
from fedlab.clients.rules import Batch, LocalRule
from fedlab.tasks import Dataset, FunctionalModel, Records, State

RESIDENT_BYTES = 256 << 20
"""Data sets up to this size are converted to float32 once, and stay on the device."""

PIECE = 256
"""Records that a pass over everything looks at together."""


@dataclass(frozen=True)
class ClientJob:
    """One client's work in one round: where it starts, which records it uses in which step.

    `memory` is what its rule remembers (empty before the first round), `server` what the server sent
    beside the model; `repeat` says how often the client got the same model before.
    """

    client: int
    round: int
    state: State
    memory: State
    records: np.ndarray
    plan: Plan
    server: State = field(default_factory=dict)
    repeat: int = 0

    @property
    def place(self) -> tuple[int, ...]:
        """What its draws depend on beside the seed and their purpose."""
        return place(self.round, self.client, self.repeat)


class Batches:
    """Cuts the batches of cohorts out of one data set.

    Short batches are filled up with rows of weight zero, as far as the longest of the step. Dropout
    masks and a rule's random draws come from (seed, round, client, step), and only for real rows:
    padding must not move a client's own stream.
    """

    def __init__(
        self,
        data: Records,
        model: FunctionalModel,
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.data, self.model, self.rule = data, model, rule
        self.config, self.seed, self.device = config, seed, device
        self._drops = config.mode == "train" and bool(model.mask_shapes)
        trial = torch.Generator()
        self._samples = config.mode == "train" and bool(model.noise_shapes)
        self._draws = bool(rule.draws(model.parameters_of(model.state()), trial))
        self._endings = bool(rule.ending(model.parameters_of(model.state()), trial))
        self._noise = bool(rule.noise(torch.Size((1, *data.shape)), trial))
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        self._latest: tuple[np.ndarray, Tensor, Tensor] | None = None
        if isinstance(data, Dataset):  # other records may be too many to list
            everything = np.arange(len(data))
            self._labels = data.labels(everything).to(device)
            if 4 * len(data) * int(np.prod(data.shape)) <= RESIDENT_BYTES:
                self._images = data.images(everything).to(device)

    def sizes(self, jobs: Sequence[ClientJob]) -> Tensor:
        """(clients,) configured (expected) batch sizes."""
        asked = self.config.batch_size
        sizes = [float(min(asked or len(job.records), len(job.records))) for job in jobs]
        return torch.tensor(sizes, device=self.device)

    def step(self, jobs: Sequence[ClientJob], sizes: Tensor, step: int, purpose: str = "") -> Batch:
        """The batches of one step; a client whose plan has ended gets padding only.

        `purpose` sets its random streams apart from those of the plan's own steps.
        """
        picks = [job.records[job.plan[step]] if step < len(job.plan) else job.records[:0] for job in jobs]
        lengths = [len(pick) for pick in picks]
        longest = max(1, *lengths)
        if self.config.sampling == "poisson":
            longest = _rounded_up(longest)
        rows = torch.ones(len(jobs), longest)
        if min(lengths) == longest:
            ids = np.stack(picks)
        else:
            ids = np.empty((len(jobs), longest), dtype=np.int64)
            for i, (job, pick) in enumerate(zip(jobs, picks, strict=True)):
                ids[i, : len(pick)] = pick
                ids[i, len(pick) :] = job.records[0]  # any record: its weight is zero
                rows[i, len(pick) :] = 0.0
        x, y = self._looked_up(ids)
        return Batch(
            x=x,
            y=y,
            rows=rows.to(self.device),
            masks=self._per_record(self._masks, "dropout" + purpose, jobs, step, lengths, longest)
            if self._drops
            else {},
            draws=self._stacked([self._draw(job, "rule" + purpose, step) for job in jobs])
            if self._draws
            else {},
            size=sizes,
            noise=self._per_record(self._own_noise, "noise" + purpose, jobs, step, lengths, longest)
            if self._noise
            else {},
            samples=self._per_record(self.model.draw_noise, "sample" + purpose, jobs, step, lengths, longest)
            if self._samples
            else {},
        )

    def endings(self, jobs: Sequence[ClientJob]) -> State:
        """What the rule draws for the end of each client's round."""
        if not self._endings:
            return {}
        return self._stacked(
            [
                self.rule.ending(
                    self.model.parameters_of(job.state),
                    seeds.torch_generator(self.seed, "rule-end", *job.place),
                )
                for job in jobs
            ]
        )

    def everything(self, jobs: Sequence[ClientJob]) -> Iterator[Batch]:
        """All records of each client, in pieces."""
        whole = [
            replace(job, plan=np.split(np.arange(len(job.records)), range(PIECE, len(job.records), PIECE)))
            for job in jobs
        ]
        sizes = self.sizes(jobs)
        for piece in range(max(len(job.plan) for job in whole)):
            yield self.step(whole, sizes, piece, purpose="-full")

    def _looked_up(self, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels; of full batches once, however many steps are taken on them."""
        if self._latest is None or not np.array_equal(ids, self._latest[0]):
            where = torch.from_numpy(ids).to(self.device)
            self._latest = ids, self._pixels(ids, where), self._targets(ids, where)
        return self._latest[1:]

    def _pixels(self, ids: np.ndarray, where: Tensor) -> Tensor:
        """(clients, batch, C, H, W)."""
        if self._images is not None:
            return self._images.index_select(0, where.reshape(-1)).reshape(*ids.shape, *self.data.shape)
        return self.data.images(ids.reshape(-1)).reshape(*ids.shape, *self.data.shape).to(self.device)

    def _targets(self, ids: np.ndarray, where: Tensor) -> Tensor:
        """(clients, batch)."""
        if self._labels is not None:
            return self._labels[where]
        return self.data.labels(ids.reshape(-1)).reshape(ids.shape).to(self.device)

    def _per_record(
        self,
        draw: Callable[[int, torch.Generator], State],
        purpose: str,
        jobs: Sequence[ClientJob],
        step: int,
        lengths: Sequence[int],
        longest: int,
    ) -> State:
        """What `draw` draws for each client's real rows, filled up with ones."""
        drawn = []
        for job, real in zip(jobs, lengths, strict=True):
            own = draw(real, seeds.torch_generator(self.seed, purpose, *job.place, step))
            if real < longest:
                own = {n: torch.cat([v, v.new_ones(longest - real, *v.shape[1:])]) for n, v in own.items()}
            drawn.append(own)
        return self._stacked(drawn)

    def _masks(self, real: int, generator: torch.Generator) -> State:
        return self.model.draw_masks(real, generator)

    def _own_noise(self, real: int, generator: torch.Generator) -> State:
        return self.rule.noise(torch.Size((real, *self.data.shape)), generator)

    def _draw(self, job: ClientJob, purpose: str, step: int) -> State:
        generator = seeds.torch_generator(self.seed, purpose, *job.place, step)
        return self.rule.draws(self.model.parameters_of(job.state), generator)

    def _stacked(self, states: Sequence[State]) -> State:
        return {name: value.to(self.device) for name, value in stack(states).items()}


def _rounded_up(length: int) -> int:
    """To one of a few lengths: a step whose shape comes back is recorded and replayed (`tracing`)."""
    step = max(8, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


def stack(states: Sequence[State]) -> State:
    """One state with a leading client axis."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
