"""The local training loop, for a whole cohort at once.

Clients are stacked: parameters, momentum and buffers carry a client axis, and each step is one
`torch.func.vmap` over it. Unequal clients are padded: short batches with rows of weight zero; a
client whose plan has ended stays where it is, and leaves the stack once half of it is idle. Batch norm
ignores padded rows (`fedlab.tasks.layers`), so a stacked client learns what it would learn alone. A
cohort of one is padded with a copy of itself, because a single client would take other kernels and
differ in the last bits; so is one that is no whole chunk, up to one of a few sizes, because a shape that
comes back is recorded and replayed (`fedlab.clients.tracing`), which is several times quicker.

SGD is torch.optim.SGD's: v <- momentum v + (g + weight_decay w); w <- w - lr v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from fedlab.clients.batches import Batches, ClientJob, stack
from fedlab.clients.cohort import CohortResult, Standing, joined
from fedlab.clients.config import ClientConfig
from fedlab.clients.gradients import Gradients, linear_layers
from fedlab.clients.rules import Batch, Carry, LocalRule, Sent, Work
from fedlab.clients.tracing import Traced
from fedlab.errors import FedlabError, PluginError
from fedlab.runtime.arrays import aligned
from fedlab.tasks import FunctionalModel, Records, State
from fedlab.tasks.precision import compute_exactly


class LocalTraining:
    """Trains cohorts of clients on one model, data set and local rule.

    Args:
        stacked: whether a cohort may be stacked; if not, one client at a time is expected.
        chunk: how many clients most cohorts have, if that is known.
        device: where to compute; states come from and go back to the CPU.
    """

    def __init__(
        self,
        model: FunctionalModel,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: Records,
        rule: LocalRule,
        config: ClientConfig,
        seed: int,
        *,
        stacked: bool = True,
        chunk: int = 0,
        device: str = "cpu",
    ) -> None:
        self.chunk = chunk
        self.model, self.loss, self.data = model, loss, data
        self.rule, self.config, self.stacked = rule, config, stacked
        self.device = torch.device(device)
        compute_exactly(self.device)
        rule.meet(model)
        self.batches = Batches(data, model, rule, config, seed, self.device)
        mapped: Callable[[Callable[..., Any]], Callable[..., Any]] = vmap if stacked else _alone
        self._begin = Traced(mapped(rule.start))
        self._directions = Traced(mapped(self._direction))
        self._finish = Traced(mapped(rule.finish))
        self._sums = mapped(self._sum)
        self._layers = linear_layers(model)

    def __call__(self, jobs: Sequence[ClientJob]) -> CohortResult:
        """Train every job from its own state; results in the jobs' order."""
        if self.stacked:
            size = self._padded(len(jobs))
            if size > len(jobs):
                return self._trained([*jobs, *[jobs[-1]] * (size - len(jobs))]).first(len(jobs))
        return self._trained(jobs)

    def _padded(self, size: int) -> int:
        """A whole chunk stays as it is; of other sizes, those up to 2^k and 1.5 · 2^k are one."""
        octave = 1 << max(1, (size - 1).bit_length())
        larger = octave if 4 * size > 3 * octave or octave == 2 else 3 * octave // 4
        return size if 1 < size == self.chunk else larger

    def _trained(self, jobs: Sequence[ClientJob]) -> CohortResult:
        start = self._common([job.state for job in jobs])
        anchor, buffers = self.model.parameters_of(start), self.model.buffers_of(start)
        server = self._common([job.server for job in jobs])
        work = self._work(jobs, anchor, buffers)
        now = Standing(
            clients=list(range(len(jobs))),
            parameters=anchor,
            buffers=buffers,
            velocity={},
            carry=self._begin(anchor, self._memories(jobs), server, work),
        )
        ended: list[Standing] = []
        steps = [len(job.plan) for job in jobs]
        sizes = self.batches.sizes(jobs)
        losses = torch.zeros(len(jobs), dtype=torch.float64, device=self.device)
        for step in range(max(steps)):
            going = [row for row, client in enumerate(now.clients) if steps[client] > step]
            if 2 * len(going) <= len(now.clients) and len(now.clients) > 2:
                rest = [row for row in range(len(now.clients)) if row not in going]
                kept = going if len(going) > 1 else [*going, rest.pop()]  # never a stack of one
                ended.append(now.only(rest))
                now = now.only(kept)
            self._advance(now, jobs, sizes, losses, step)
        parameters, buffers, carry = joined([*ended, now])
        sent: Sent = self._finish(anchor, parameters, work, carry)
        return CohortResult(
            state={name: value.cpu() for name, value in (sent.parameters | buffers).items()},
            memory={name: value.cpu() for name, value in sent.memory.items()},
            uplink={name: value.cpu() for name, value in sent.uplink.items()},
            losses=[total / max(n, 1) for total, n in zip(losses.tolist(), steps, strict=True)],
            steps=steps,
        )

    def _common(self, states: Sequence[State]) -> State:
        """A state of each client, stacked; one that all share is not copied."""
        first = states[0]
        if all(state is first for state in states):
            own = aligned(first)
            return {n: value.to(self.device).expand(len(states), *value.shape) for n, value in own.items()}
        return {name: value.to(self.device) for name, value in stack(states).items()}

    def _memories(self, jobs: Sequence[ClientJob]) -> State:
        """What the rule remembers of each client, stacked; of a new client, how it begins.

        Raises:
            FedlabError: the memory is another rule's.
        """
        fresh = self.rule.memory(self.model.parameters_of(jobs[0].state))
        for job in jobs:
            shapes = {name: value.shape for name, value in job.memory.items()}
            if shapes and shapes != {name: value.shape for name, value in fresh.items()}:
                raise FedlabError(
                    f"client {job.client} remembers {', '.join(sorted(shapes))}; the local rule"
                    f" {type(self.rule).__name__} expects {', '.join(sorted(fresh)) or 'nothing'}: that"
                    " memory comes from another algorithm or another model; start a new run"
                )
        kept = stack([job.memory or fresh for job in jobs])
        return {name: value.to(self.device) for name, value in kept.items()}

    def _work(self, jobs: Sequence[ClientJob], parameters: State, buffers: State) -> Work:
        """What each client does in this round, stacked."""
        kind = next(iter(parameters.values())).dtype
        size = self.config.batch_size

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=kind, device=self.device)

        return Work(
            steps=column([len(job.plan) for job in jobs]),
            epoch=column([-(-len(job.records) // (size or len(job.records))) for job in jobs]),
            learning_rate=column([self.config.learning_rate] * len(jobs)),
            momentum=column([self.config.momentum] * len(jobs)),
            gradient=self._full(jobs, parameters, buffers) if self.rule.full_gradient else {},
            draws=self.batches.endings(jobs),
        )

    def _full(self, jobs: Sequence[ClientJob], parameters: State, buffers: State) -> State:
        """The mean gradient over all records of each client."""
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for batch in self.batches.everything(jobs):
            for name, value in self._sums(parameters, buffers, batch).items():
                total[name] = total[name] + value
        kind = next(iter(parameters.values())).dtype
        counts = torch.tensor([len(job.records) for job in jobs], dtype=kind, device=self.device)
        return {n: value / counts.view(-1, *([1] * (value.dim() - 1))) for n, value in total.items()}

    def _advance(
        self, now: Standing, jobs: Sequence[ClientJob], sizes: Tensor, losses: Tensor, step: int
    ) -> None:
        """One step of every client in the stack, in place."""
        mine = [jobs[client] for client in now.clients]
        where = torch.tensor(now.clients, device=self.device)
        batch = self.batches.step(mine, sizes[where], step)
        if not self.stacked and batch.x.dim() == 5:  # one batch of images: convolutions like this order
            images = batch.x[0].contiguous(memory_format=torch.channels_last)
            batch = batch._replace(x=images[None])
        direction, buffers, carry, loss = self._directions(now.parameters, now.buffers, now.carry, batch)
        slopes = self._slopes(now, direction)
        idle = [len(job.plan) <= step for job in mine]
        if any(idle):  # a client whose plan has ended stays where it is
            still = torch.tensor(idle, device=self.device)
            slopes = _choose(still, {name: torch.zeros_like(slope) for name, slope in slopes.items()}, slopes)
            buffers = _choose(still, now.buffers, buffers)
            carry = _choose(still, now.carry, carry)
            loss = loss.masked_fill(still, 0.0)
        rate = self.config.learning_rate
        if step and not _share_memory(now.parameters, carry | buffers):
            for name, value in now.parameters.items():
                value.add_(slopes[name], alpha=-rate)
        else:  # the first are the server's own, and a rule may carry old ones on
            now.parameters = {n: value.add(slopes[n], alpha=-rate) for n, value in now.parameters.items()}
        now.buffers, now.carry = buffers, carry
        losses.index_add_(0, where, loss.double())

    def _slopes(self, now: Standing, direction: State) -> State:
        """Weight decay and momentum, as in torch.optim.SGD."""
        decay, momentum = self.config.weight_decay, self.config.momentum
        slopes = direction
        if decay:
            slopes = {name: slope.add(now.parameters[name], alpha=decay) for name, slope in slopes.items()}
        if momentum:
            if now.velocity:
                slopes = {n: now.velocity[n].mul_(momentum).add_(slope) for n, slope in slopes.items()}
            else:
                slopes = {name: slope.clone() for name, slope in slopes.items()}
            now.velocity = slopes
        return slopes

    def _direction(
        self, parameters: State, buffers: State, carry: Carry, batch: Batch
    ) -> tuple[State, State, Carry, Tensor]:
        """One client's direction, buffers, carry and loss of one step; mapped over clients."""

        def by_inputs(values: State, x: Tensor, y: Tensor) -> Tensor:
            def total(pixels: Tensor) -> Tensor:
                outputs, _ = self.model({**values, **buffers}, pixels, training=False)
                return self.loss(outputs, y).sum()

            slope: Tensor = grad(total)(x)
            return slope

        batch = self.rule.perturb(by_inputs, parameters, batch)
        gradients = self._gradients(buffers)
        direction, aux, carry = self.rule.direction(gradients, parameters, batch, carry)
        wrong = [name for name, value in parameters.items() if _shape(direction, name) != value.shape]
        if wrong:
            raise PluginError(
                f"local rule {type(self.rule).__name__} steps along {_shape(direction, wrong[0])} for"
                f" {wrong[0]!r}; expected a tensor of shape {tuple(parameters[wrong[0]].shape)}"
            )
        return direction, aux.buffers if self.rule.shares_buffers else buffers, carry, aux.loss

    def _sum(self, parameters: State, buffers: State, batch: Batch) -> State:
        """The sum of one client's gradients over the real rows of a batch."""
        gradient, _ = self._gradients(buffers)(parameters, batch)
        return {name: value * batch.rows.sum() for name, value in gradient.items()}

    def _gradients(self, buffers: State) -> Gradients:
        return Gradients(
            self.model,
            self.loss,
            buffers,
            training=self.config.mode == "train",
            expand=self.rule.expand,
            layers=self._layers,
        )


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one client, as a function of a stack of one."""

    def called(*arguments: Any) -> Any:
        return tree_map(lambda value: value[None], function(*tree_map(lambda value: value[0], arguments)))

    return called


def _choose(still: Tensor, old: State, new: State) -> State:
    """`old` for the clients where `still` (clients,) holds, `new` for the others."""
    return {
        name: torch.where(still.view(-1, *([1] * (value.dim() - 1))), old[name], value)
        for name, value in new.items()
    }


def _share_memory(one: State, other: State) -> bool:
    mine = {value.untyped_storage().data_ptr() for value in one.values()}
    return any(value.untyped_storage().data_ptr() in mine for value in other.values())


def _shape(direction: State, name: str) -> tuple[int, ...] | None:
    """Of a direction that a plugin made; None where it has none."""
    return tuple(direction[name].shape) if name in direction else None
