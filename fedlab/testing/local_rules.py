"""The contract of local rules: a client's half, the server's half, and both of them in a federation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.app import CohortApp
from fedlab.clients.batches import ClientJob
from fedlab.clients.cohort import ClientResult
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import slotted
from fedlab.errors import FedlabError
from fedlab.runtime import single_thread
from fedlab.strategies import SGD, Composition, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.deltas import flatten, unflatten
from fedlab.tasks import FunctionalModel, State, Task
from fedlab.testing.contract import ContractError, answer, demand, kept, same
from fedlab.testing.federation import SEED, SIZES, course, owners, small_task
from fedlab.testing.servers import check_server

LONG = 3
"""Rounds after which a step's operations have been recorded (`fedlab.clients.tracing`)."""


def check_local_rule(
    rule: Any,
    *,
    task: Task | None = None,
    config: ClientConfig | None = None,
    tolerance: float = 1e-8,
    ray: bool = False,
) -> None:
    """Whether a local rule keeps its contract.

    Clients: what they send and remember has the names, shapes and types that the rule announces, and is
    finite. Unequal clients that train stacked come to what they come to one by one, whoever runs out of
    work first, and an empty batch does no harm. Steps give the same bits whether they are worked out or
    replayed, and twice the same bits for the same seed. Nothing that goes in is changed, nothing is drawn
    from global generators, the memory of another algorithm is refused.

    Server: its half announces what it sends and expects, answers with finite vectors of float64, and its
    state survives a checkpoint. Both halves run in a small federation, where it makes no difference how
    clients are cut into chunks, whether the run was interrupted, and (`ray`) whether it was on Ray.

    Args:
        rule: a LocalRule, or a class of them.
        task: to try it on; a small one with batch norm and dropout unless given.
        config: how clients train; two epochs over batches of four unless given.
        tolerance: by how much stacked clients may differ from single ones, relative to how far they went.
        ray: also on Ray, which takes some seconds to start.

    Raises:
        ContractError: the first thing that it does not keep.
    """
    __tracebackhide__ = True
    made = rule() if isinstance(rule, type) else rule
    if not isinstance(made, LocalRule):
        raise ContractError(f"a local rule: got {type(made).__name__}; expected a fedlab.clients.LocalRule")
    config = config or ClientConfig(batch_size=4, local_epochs=2, learning_rate=0.1)
    try:
        made.check(config)
    except FedlabError as error:
        raise ContractError(
            f"check(config) refused {config}: {error}; pass a config= that suits it"
        ) from error
    with single_thread():
        for kind in (torch.float32, torch.float64):
            bench = _bench(made, task or small_task(), config, kind)
            bench.announced()
            check_server(made.server, bench.size)
            bench.clients(tolerance if kind is torch.float64 else None)
        bench.replayed()
        bench.foreign_memory()
    _federation(made, bench, tolerance, ray)


def _bench(rule: LocalRule, task: Task, config: ClientConfig, kind: torch.dtype) -> _Bench:
    __tracebackhide__ = True
    try:
        return _Bench(rule, task, config, kind)
    except FedlabError as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"network: {error}; pass a task= that suits the rule") from error


class _Bench:
    """A rule on a task, with what its server would send."""

    def __init__(self, rule: LocalRule, task: Task, config: ClientConfig, kind: torch.dtype) -> None:
        __tracebackhide__ = True
        network = task.network
        whole = replace(task, network=lambda: rule.network(network)().to(kind))
        self.rule, self.task, self.config = rule, whole, config
        self.owners = owners(task)
        self.model: FunctionalModel = whole.model(SEED)
        self.start = self.model.state()
        self.parameters = self.model.parameters_of(self.start)
        self.personal = _called("personal", lambda: rule.personal(dict(self.parameters), _generator()))
        self.shared = [name for name in self.parameters if name not in self.personal]
        self.size = sum(self.parameters[name].numel() for name in self.shared)

    def announced(self) -> None:
        """What the rule says of itself before it has seen a client."""
        __tracebackhide__ = True
        strangers = sorted(set(self.personal) - set(self.parameters))
        demand(not strangers, "personal: names", ", ".join(strangers), "names of the model's parameters")
        _alike("personal", self.personal, {name: self.parameters[name] for name in self.personal})
        for name, hook in {
            "personal": lambda: self.rule.personal(dict(self.parameters), _generator()),
            "memory": lambda: self.rule.memory(dict(self.parameters)),
            "draws": lambda: self.rule.draws(dict(self.parameters), _generator()),
            "noise": lambda: self.rule.noise(torch.Size((3, *self.task.train.shape)), _generator()),
        }.items():
            found = answer(name, hook, tuple)
            demand(
                isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()),
                name,
                type(found).__name__,
                "a dict of tensors by name",
            )
            if name == "noise":
                short = {key: tuple(value.shape) for key, value in found.items() if len(value) != 3}
                demand(not short, "noise for 3 records: shapes", short, "(3, ...): a row for each record")

    def clients(self, tolerance: float | None) -> None:
        """All clients stacked and, unless the numbers are too coarse to compare, one by one."""
        __tracebackhide__ = True
        together, alone = self.training(stacked=True), self.training(stacked=False)
        memories: list[State] = [{} for _ in self.owners]
        for round in (1,) if tolerance is None else (1, 2):
            jobs = self.jobs(round, memories)

            def fresh(round: int = round, memories: Sequence[State] = tuple(memories)) -> tuple[Any, ...]:
                return (self.jobs(round, memories),)

            what = f"{len(jobs)} stacked clients of unequal size"
            result = answer(what, lambda jobs: list(together(jobs)), fresh)
            for job, one in zip(jobs, result, strict=True):
                self.sent(one)
                if tolerance is not None:
                    (single,) = alone([job])
                    self.equal(job, one, single, tolerance)
            memories = [kept("the local rule", one.memory) for one in result]

    def replayed(self) -> None:
        """A loop that has run for long, and replays what it recorded, against new loops with new rules."""
        __tracebackhide__ = True
        config = replace(self.config, local_epochs=1, local_steps=8)
        long = self.training(stacked=True, config=config)
        equal = [np.arange(4) + 4 * client for client in range(3)]
        memories: list[State] = [{} for _ in equal]
        for round in range(1, LONG + 1):
            jobs = self.jobs(round, memories, config, equal)
            new = self.training(stacked=True, config=config, rule=copy.deepcopy(self.rule))
            old = list(long(jobs))
            demand(
                all(map(_same_result, old, new(jobs))),
                f"round {round} of clients whose steps were recorded and replayed",
                "other bits than those of a new rule that has recorded nothing",
                "the same",
                "Read nothing but arguments and what the constructor set, and change nothing on the object",
            )
            memories = [dict(one.memory) for one in old]

    def foreign_memory(self) -> None:
        """What another algorithm remembered must not pass for one's own."""
        __tracebackhide__ = True
        jobs = self.jobs(1, [{"another-rule/weight": torch.ones(3)} for _ in self.owners])
        try:
            self.training(stacked=True)(jobs)
        except FedlabError:
            return
        raise ContractError("the memory of another algorithm: got an update; expected a refusal")

    def training(
        self, *, stacked: bool, config: ClientConfig | None = None, rule: LocalRule | None = None
    ) -> LocalTraining:
        """A loop that has not run yet."""
        task, how = self.task, config or self.config
        return LocalTraining(self.model, task.loss, task.train, rule or self.rule, how, SEED, stacked=stacked)

    def jobs(
        self,
        round: int,
        memories: Sequence[State],
        config: ClientConfig | None = None,
        holders: Sequence[Any] | None = None,
    ) -> list[ClientJob]:
        """Everybody's work; the first client meets an empty batch, as happens under Poisson sampling."""
        made = []
        for client, records in enumerate(holders or self.owners):
            plan = plan_batches(len(records), config or self.config, SEED, round, client)
            if holders is None and client == 0:
                plan = [*plan[:1], np.arange(0), *plan[1:]]
            state = {name: value.clone() for name, value in (self.start | self.personal).items()}
            memory = {name: value.clone() for name, value in memories[client].items()}
            made.append(ClientJob(client, round, state, memory, records, plan, self.told()))
        return made

    def told(self) -> State:
        """What the server sends, some rounds on."""
        begun = self.rule.server.begin(flatten(self.parameters, self.shared))
        found: State = {}
        for name in self.rule.server.sends:
            noise = torch.randn(self.size, generator=_generator(), dtype=torch.float64)
            later = begun[name] + 0.01 * noise
            found |= slotted(name, unflatten(later, self.parameters, self.shared))
        return found

    def sent(self, one: ClientResult) -> None:
        """What a client sends and remembers is what was announced."""
        __tracebackhide__ = True
        _alike("finish: parameters", one.state, self.start)
        _alike("finish: memory", one.memory, self.rule.memory(dict(self.parameters)))
        slots = {
            f"{slot}/{name}": self.parameters[name]
            for slot in self.rule.server.uplinks
            for name in self.shared
        }
        _alike("finish: uplink (server.uplinks)", one.uplink, slots)
        figures = self.rule.metrics(5, 2, one.loss)
        odd = {name: value for name, value in figures.items() if not isinstance(value, int | float)}
        demand(not odd, "metrics", odd, "numbers by name")

    def equal(self, job: ClientJob, stacked: ClientResult, single: ClientResult, tolerance: float) -> None:
        __tracebackhide__ = True
        way = max(1e-12, _apart(single.state, job.state))
        for part in ("state", "memory", "uplink"):
            one, other = getattr(stacked, part), getattr(single, part)
            far = _apart(one, other) / max(way, _length(other))
            demand(
                far <= tolerance,
                f"client {job.client}'s {part}, trained in a stack of {len(SIZES)}",
                f"something that differs by {far:.1g} from what it comes to alone",
                f"at most {tolerance:.1g}, relative to how far it moved",
                "Divide by the client's own counts (work.steps, batch.rows); rows of weight 0 are padding",
            )


def _federation(rule: LocalRule, bench: _Bench, tolerance: float, ray: bool) -> None:
    """Both halves, through Flower messages."""
    __tracebackhide__ = True

    def app(stacked: bool) -> CohortApp:
        return CohortApp(bench.task, bench.owners, rule, bench.config, SEED, stacked=stacked)

    def strategy() -> Composition:
        learner = Learner(
            as_aggregator(mean), SGD(), bench.shared, SEED, server=rule.server, config=bench.config
        )
        return Composition(learner, Synchronous(3, SEED))  # of five: some remember from longer ago

    start = {name: value for name, value in bench.start.items() if name not in bench.personal}
    straight = course(app(True), strategy, start)
    for state in straight:
        _alike("the model after a round", state, start)
    runs: dict[str, Callable[[], list[State]]] = {
        "interrupted after the first round": lambda: course(app(True), strategy, start, cut=True),
    }
    if ray:
        runs["on Ray"] = lambda: course(app(True), strategy, start, ray=True)
    for how, run in runs.items():
        demand(same(straight, run()), f"a small federation, {how}", "other bits", "the same")
    alone = course(app(False), strategy, start)[-1]
    far = _apart(alone, straight[-1]) / max(1e-12, _apart(straight[-1], start))
    demand(
        far <= tolerance,
        "a small federation whose clients train one by one",
        f"a model that differs by {far:.1g}",
        f"that of stacked clients, to {tolerance:.1g} of how far it moved",
    )


def _generator() -> torch.Generator:
    return seeds.torch_generator(SEED, "contract")


def _called(what: str, function: Callable[[], Any]) -> Any:
    __tracebackhide__ = True
    return answer(what, function, tuple)


def _alike(what: str, got: State, expected: State) -> None:
    """The same names, shapes and types, and finite numbers."""
    __tracebackhide__ = True
    missing, odd = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    demand(not missing, f"{what}: missing names", ", ".join(missing), "all of them")
    demand(not odd, f"{what}: names", ", ".join(odd), f"only {', '.join(expected) or 'none'}")
    for name, value in got.items():
        like = expected[name]
        demand(
            value.shape == like.shape, f"{what}: shape of {name}", tuple(value.shape), f"{tuple(like.shape)}"
        )
        demand(value.dtype == like.dtype, f"{what}: dtype of {name}", value.dtype, f"{like.dtype}")
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        demand(finite, f"{what}: {name}", "NaN or infinite numbers", "finite numbers")


def _same_result(one: ClientResult, other: ClientResult) -> bool:
    return all(same(getattr(one, part), getattr(other, part)) for part in ("state", "memory", "uplink"))


def _apart(one: State, other: State) -> float:
    return _length({name: one[name].double() - other[name].double() for name in one})


def _length(state: State) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in state.values()))
