"""check_local_rule: fedlab's own rules pass; each planted bug is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlab import plugins
from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.rules import (
    Aux,
    Batch,
    Carry,
    Facts,
    GradFn,
    Sent,
    ServerSide,
    ServerState,
    Work,
    slot,
    slotted,
    zeros,
)
from fedlab.errors import UsageError
from fedlab.tasks import Dataset, State, Task
from fedlab.testing import ContractError, check_local_rule
from fedlab.testing.federation import small_task

PARAMETERS = {"fal": {"steps": 1}}


def plain_network() -> nn.Module:
    """Without batch norm, of which a hypernetwork makes nothing."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("name", plugins.names("local_rules"))
def test_fedlabs_own_rules_keep_the_contract(name: str) -> None:
    data = small_task()
    task = Task(data.train, data.test, plain_network) if name == "hyperfl" else None
    check_local_rule(plugins.build("local_rules", name, **PARAMETERS.get(name, {})), task=task)


@pytest.mark.ray
@pytest.mark.slow
def test_a_rule_comes_to_the_same_on_ray() -> None:
    check_local_rule(plugins.build("local_rules", "scaffold"), ray=True)


def test_a_rule_of_ones_own_may_be_tried_on_a_task_of_ones_own(small_data: Dataset) -> None:
    task = Task(small_data, small_data, plain_network)
    check_local_rule(LocalRule, task=task, config=ClientConfig(batch_size=3, local_steps=2))


class Counting(ServerSide):
    """Keeps the sum of what clients sent."""

    sends = ("total",)
    uplinks = ("total",)

    def begin(self, parameters: Tensor) -> ServerState:
        return {"total": torch.zeros_like(parameters)}

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        return delta, {"total": state["total"] + uplinks["total"]}


class Whole(LocalRule):
    """A rule with everything: memory, server's half, uplink. The bugs below are changes of it."""

    server: ServerSide = Counting()

    def memory(self, parameters: State) -> State:
        return zeros("mine", parameters)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        pull = {name: value + slot(server, "total")[name] for name, value in slot(memory, "mine").items()}
        return slotted("pull", pull)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        pull = slot(carry, "pull")
        return {name: value + 0.1 * pull[name] for name, value in gradient.items()}, aux, carry

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        way = {name: (parameters[name] - anchor[name]) / work.steps for name in anchor}
        return Sent(parameters, slotted("mine", way), slotted("total", way))


def test_a_rule_with_everything_keeps_the_contract() -> None:
    check_local_rule(Whole)


class NotARule:
    pass


class Refuses(LocalRule):
    def check(self, config: ClientConfig) -> None:
        raise UsageError("momentum = 0; expected some")


class WrongMemory(Whole):
    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        sent = super().finish(anchor, parameters, work, carry)
        return sent._replace(memory=slotted("other", slot(sent.memory, "mine")))


class MissingUplink(Whole):
    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return super().finish(anchor, parameters, work, carry)._replace(uplink={})


class DroppedParameter(LocalRule):
    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return Sent({n: v for n, v in parameters.items() if not n.endswith("bias")}, {}, {})


class Float64(LocalRule):
    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return Sent({name: value.double() for name, value in parameters.items()}, {}, {})


class NotFinite(LocalRule):
    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return Sent({name: value / 0.0 for name, value in parameters.items()}, {}, {})


class Branches(LocalRule):
    """A client's tensor decides which way Python goes: nothing that runs for all at once."""

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        if aux.loss > 0.5:
            gradient = {name: 2.0 * value for name, value in gradient.items()}
        return gradient, aux, carry


class CountsRows(LocalRule):
    """Padding counts: the gradient is weighted by how many rows the stack has, not the client."""

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        return {name: value * batch.rows.numel() for name, value in gradient.items()}, aux, carry


class CountsSteps(LocalRule):
    """What it does depends on how often it was called, which replayed steps do not tell it."""

    calls = 0

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        self.calls += 1
        gradient, aux = grad_fn(parameters, batch)
        return {name: value * (1.0 + self.calls) for name, value in gradient.items()}, aux, carry


class GlobalDraws(LocalRule):
    def draws(self, parameters: State, generator: torch.Generator) -> State:
        return {"noise": torch.randn(3)}


class SharedNoise(LocalRule):
    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        return {"noise": torch.randn(1, generator=generator)}


class UnknownPersonal(LocalRule):
    def personal(self, parameters: State, generator: torch.Generator) -> State:
        return {"head": torch.zeros(3)}


class NoSlot(Counting):
    def begin(self, parameters: Tensor) -> ServerState:
        return {}


class Forgets(Counting):
    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        return delta, {}


class InPlace(Counting):
    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        state["total"] += uplinks["total"]
        return delta, state


class Factors(Counting):
    def factors(self, facts: Facts) -> Tensor:
        return torch.ones(7)


class OnItself(Counting):
    rounds = 0

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        self.rounds += 1
        return delta / self.rounds, state


def served(server: ServerSide) -> LocalRule:
    rule = Whole()
    rule.server = server
    return rule


class Slash(Counting):
    sends = ("a/b",)

    def begin(self, parameters: Tensor) -> ServerState:
        return {"a/b": torch.zeros_like(parameters), "total": torch.zeros_like(parameters)}


BUGS: dict[str, tuple[Any, str]] = {
    "no rule": (NotARule, "got NotARule; expected a fedlab.clients.LocalRule"),
    "refuses": (Refuses, "momentum = 0; expected some; pass a config="),
    "memory": (WrongMemory, "finish: memory: missing names: got mine/"),
    "uplink": (MissingUplink, r"finish: uplink \(server.uplinks\): missing names: got total/"),
    "parameter": (DroppedParameter, "finish: parameters: missing names: got 1.bias"),
    "type": (Float64, "finish: parameters: dtype of .*: got torch.float64; expected torch.float32"),
    "not finite": (NotFinite, "got NaN or infinite numbers"),
    "branches": (Branches, "5 stacked clients of unequal size raised RuntimeError"),
    "padding": (CountsRows, "trained in a stack of 5: got something that differs"),
    "hidden memory": (CountsSteps, "two answers to the same question|recorded and replayed"),
    "global draws": (GlobalDraws, "draws: got a draw from the global generator of torch"),
    "noise": (SharedNoise, r"noise for 3 records: shapes: got \{'noise': \(1,\)\}"),
    "personal": (UnknownPersonal, "personal: names: got head; expected names of the model's parameters"),
    "no slot": (served(NoSlot()), "server.begin: no slot: got total; expected every slot"),
    "slash": (served(Slash()), "server.sends: got .*without a slash"),
    "slots": (served(Forgets()), r"server.end in round 1: slots: got \[\]"),
    "in place": (served(InPlace()), "server.end in round 1: got arguments that were changed in place"),
    "factors": (served(Factors()), "server.factors: shape: got .7,.; expected .3,."),
    "on itself": (served(OnItself()), "server.end in round 1: got two answers"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_of_a_local_rule_is_named(bug: str) -> None:
    rule, told = BUGS[bug]
    with pytest.raises(ContractError, match=told):
        check_local_rule(rule)
