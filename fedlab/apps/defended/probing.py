"""Where a defense acts, found by asking it: a hook that gives back what it got does nothing.

Defenses that stack others override every hook, so that what they override says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedlab import plugins
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Aux, Batch, ServerSide, Work, WrappedRule
from fedlab.errors import FedlabError, UsageError
from fedlab.tasks import State

ROWS = 4
"""Records of the batch that a rule is shown."""


def refusal(name: str, defense: Defense) -> str:
    """Why a defense cannot be tried on any app; "" where nothing is known against it."""
    federation = Federation([100] * 10, 1, ClientConfig(local_epochs=5), cohort=10)
    if _acts(lambda inner: defense.grid(inner, federation), object()) or defense.sees == "sums":
        return (
            f"{name} is a protocol between clients and server, and the app's own server does not speak it;"
            " only fedlab's own training has it"
        )
    if _acts(lambda inner: defense.aggregator(inner, federation), plugins.build("aggregators", _MEAN)):
        return (
            f"{name} changes how the server combines updates, which is the affair of the app's own strategy;"
            " a curious server would see the very same updates under it"
        )
    try:
        rule = defense.local_rule(LocalRule(), federation)
    except FedlabError:
        return ""  # of the app's own settings it may have another opinion
    return unfit(name, rule)


def unfit(name: str, rule: LocalRule) -> str:
    """Why a local rule cannot be put into an app's clients; "" where it can."""
    if type(rule.server) is not ServerSide:
        return f"{name} needs a server that does more than average updates; the app's own does what it does"
    if rule.full_gradient:
        return f"{name} takes a gradient of all records of a client at once, which the app's own loop has not"
    if _acts(rule.network, _factory):
        return f"{name} has clients train another network around the app's own, which its code does not know"
    try:
        kept = rule.personal({"weight": torch.zeros(2, 2)}, torch.Generator())
    except (FedlabError, KeyError):
        kept = {"weight": torch.zeros(2, 2)}
    if kept:
        return f"{name} leaves a part of the network with the clients, and the app's own code sends it"
    return ""


def wraps_strategy(defense: Defense) -> bool:
    """Whether a defense wraps the server's strategy."""
    return _acts(defense.strategy, object())


def changes_network(defense: Defense) -> bool:
    """Whether a defense has a look at the network, at least."""
    return _acts(defense.network, _factory)


def moves_steps(rule: LocalRule, parameters: State, shape: torch.Size) -> bool:
    """Whether a rule steps in another direction than the gradient of the batch that it is shown.

    Args:
        parameters: of the network; shape: of one record.
    """
    generator = torch.Generator().manual_seed(0)
    batch = _batch(rule, parameters, shape, generator)
    slope = {name: torch.randn(value.shape, generator=generator) for name, value in parameters.items()}
    asked: list[tuple[State, Batch]] = []

    def gradient(values: State, part: Batch) -> tuple[State, Aux]:
        asked.append((values, rule.expand(part)))
        return dict(slope), Aux(torch.tensor(0.0), {})

    try:
        carry = rule.start(parameters, rule.memory(parameters), {}, nominal(parameters, {}))
        shown = rule.perturb(lambda values, x, y: torch.zeros_like(x), parameters, batch)
        taken, _, after = rule.direction(gradient, parameters, shown, carry)
    except Exception:  # whatever a plugin's rule makes of a batch that is none
        return True
    if len(asked) != 1 or not _same(asked[0][0], parameters) or not _same(taken, slope):
        return True
    met = asked[0][1]
    return not (_equal(met.x, batch.x) and _equal(met.y, batch.y) and _same(after, carry))


def nominal(parameters: State, draws: State, steps: float = 1.0, rate: float = 0.1) -> Work:
    """A client's work of a round, as far as rules without a server's half ask for it."""
    one = next(iter(parameters.values()), torch.zeros(1))

    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=one.dtype if one.is_floating_point() else torch.float32)

    return Work(number(steps), number(steps), number(rate), number(0.0), {}, draws)


def looks_at_network(rule: LocalRule) -> bool:
    """Whether a rule wants to meet the network that it trains."""
    while isinstance(rule, WrappedRule):
        if type(rule).meet is not WrappedRule.meet:
            return True
        rule = rule.inner
    return type(rule).meet is not LocalRule.meet


_MEAN = {"name": "mean"}


def _factory() -> nn.Module:
    return nn.Linear(2, 2)


def _batch(rule: LocalRule, parameters: State, shape: torch.Size, generator: torch.Generator) -> Batch:
    x = torch.rand(ROWS, *shape, generator=generator)
    return Batch(
        x=x,
        y=torch.arange(ROWS) % 2,
        rows=torch.ones(ROWS),
        masks={},
        draws=rule.draws(parameters, generator),
        size=torch.tensor(float(ROWS)),
        noise=rule.noise(x.shape, generator),
    )


def _acts(hook: Callable[[Any], object], given: object) -> bool:
    """Whether a hook gives back anything else than what it got; one that raises had a look at it."""
    try:
        return hook(given) is not given
    except UsageError:
        return True
    except (AttributeError, TypeError):  # what is given is no real one
        return True


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
