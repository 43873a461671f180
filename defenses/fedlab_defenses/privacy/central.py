"""What noise at the server needs from the rest of a federation, and the sum that it is added to.

A user's whole influence on a round is one vector of length at most C: all that it sends in that round,
added up and clipped. The sum over users is divided by a number that does not depend on who came. Whatever
else would carry something of the user past the noise is refused, or not sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fedlab.clients.rules import LocalRule, ServerSide, WrappedRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, History, Ledger
from fedlab.privacy.noise import source
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.aggregators import FunctionAggregator, called, mean, weighted_mean
from fedlab.tasks import FunctionalModel
from fedlab_defenses.privacy.group_norm import batch_norms, refuse_batch_norm

ZERO_OUT = "all updates of one user, or zeros in their place (who takes part when is public)"
"""Adjacency where nobody is drawn at random: without the user, somebody else would have had the place."""

SETTINGS = ("dp-noise-multiplier", "dp-sample-rate", "dp-steps")
"""Figures of noise that another defense adds: settings, which say nothing of records."""


def mean_only(defense: str, inner: Aggregator) -> None:
    """Refuse any aggregator but a mean: only of a sum does one user change no more than its own update.

    Raises:
        UsageError: it is another one.
    """
    if not (isinstance(inner, FunctionAggregator) and inner.plain in (mean, weighted_mean)):
        raise UsageError(
            f"{defense} works on sums of updates, but the aggregator is {called(inner)}, which needs them"
            ' one by one; set strategy.aggregator = "mean", and no pre-aggregation'
        )


def plain_server(defense: str, rule: LocalRule) -> None:
    """Refuse local rules that send more than an update, or whose server makes more of it than a sum.

    Raises:
        UsageError: it is one.
    """
    if type(rule.server) is not ServerSide:
        raise UsageError(
            f"{defense} covers one update of each client, but the server of the local rule"
            f" {type(rule).__name__} combines more than that ({rule.server.name}); choose a rule without a"
            " server's half (fedavg, fedprox)"
        )


def without_batch_norm(defense: str, factory: Callable[[], nn.Module]) -> nn.Module:
    """The network, refused if its statistics would be averaged beside the parameters.

    Raises:
        UsageError: it has batch norm.
    """
    net = factory()
    if guilty := batch_norms(net):
        raise UsageError(
            f"{defense} cannot protect a network with batch norm ({', '.join(guilty)}): its statistics would"
            ' be averaged without noise; set task.model.norm = "group" or "none"'
        )
    return net


class QuietRule(WrappedRule):
    """Another rule, whose clients send an update and no figures of their records beside it: of figures only
    what an accountant of noise in the clients needs.

    Raises:
        UsageError: clients keep parameters, and test their models themselves.
    """

    def __init__(self, defense: str, inner: LocalRule) -> None:
        super().__init__(inner)
        plain_server(defense, inner)
        unwrapped = inner
        while isinstance(unwrapped, WrappedRule):
            unwrapped = unwrapped.inner
        if type(unwrapped).personal is not LocalRule.personal:
            raise UsageError(
                f"{defense} cannot protect the local rule {type(unwrapped).__name__}: clients test their"
                " personal models themselves and send the result, which no noise covers; choose a rule"
                " without personal parameters"
            )
        self.defense, self.shares_buffers = defense, False

    def meet(self, model: FunctionalModel) -> None:
        refuse_batch_norm(self.defense, model.net)
        self.inner.meet(model)

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        told = self.inner.metrics(records, steps, loss)
        return {name: value for name, value in told.items() if name in SETTINGS}


def clipped_sum(updates: Updates, clip: float) -> Tensor:
    """(d,) Σ_u min(1, C / ‖Δ_u‖) Δ_u over users; Δ_u is the sum of all that u has among the updates."""
    return clipped(of_users(updates), clip)


def of_users(updates: Updates) -> Tensor:
    """(users, d) all that each user has among the updates, added up, by user.

    A client that a round holds twice (an asynchronous server may have asked it again) is one user still.
    """
    deltas = updates.deltas
    users = sorted(set(updates.clients))
    if len(users) < len(updates.clients):
        row = {user: index for index, user in enumerate(users)}
        rows = torch.tensor([row[client] for client in updates.clients])
        deltas = deltas.new_zeros(len(users), deltas.shape[1]).index_add_(0, rows, deltas)
    return deltas


def clipped(vectors: Tensor, clip: float) -> Tensor:
    """(d,) the sum of the vectors (n, d), each shortened to the norm C at most."""
    factors: Tensor = (clip / vectors.norm(dim=1)).clamp(max=1.0)  # a zero vector: C / 0 = inf, factor 1
    return factors @ vectors


def bound(name: str, value: float, *, zero: bool = False) -> float:
    """The value, if it is finite and above 0 (or at least 0).

    Raises:
        UsageError: it is not.
    """
    if not (0.0 <= value if zero else 0.0 < value) or not value < math.inf:
        raise UsageError(f"{name} must be finite and {'>=' if zero else '>'} 0, got {value}")
    return float(value)


def proved(
    mechanism: str,
    ledger: Ledger,
    spent: dict[int, float],
    *,
    delta: float,
    accountant: str,
    adjacency: str,
    assumptions: tuple[Assumption, ...] = (),
    histories: Mapping[int, History],
) -> Guarantee | None:
    """The largest ε over the users who took part; None if nobody did. `histories` are theirs."""
    if not spent:
        return None
    sigma, worst = min(event.noise_multiplier for event in ledger.events), max(spent.values())
    gone = len(ledger.turned_away)
    why = None
    if sigma <= 0.0:
        why = "the noise multiplier is 0: clipping alone proves nothing"
    elif not math.isfinite(worst):
        why = "ε is too large to compute"
    return Guarantee(
        mechanism=mechanism,
        epsilon=worst if math.isfinite(worst) else None,
        delta=delta,
        unit="one user, with all records and all rounds",
        adjacency=adjacency,
        accountant=accountant,
        noise=source(ledger.secure),
        assumptions=(
            Assumption("Gaussian noise is added to every sum of updates before it is used", sigma > 0.0),
            Assumption("all that a user sends in a round is clipped together, after staleness weights", True),
            Assumption("users count alike, and the sum is divided by a fixed number", True),
            Assumption("nothing else computed from a user's records is used (no loss, no buffers)", True),
            Assumption(
                "no update was turned away for what it held"
                + (f" (those of {gone} clients were)" if gone else ""),
                not gone,
            ),
            Assumption("the server is trusted: it sees every update; ε is about who sees its models", True),
            Assumption("when devices are online and how fast they are says nothing about records", True),
            *assumptions,
        ),
        per_client=spent,
        participations=ledger.participations(),
        reason=why,
        place="server",
        history=histories[max(spent, key=lambda user: spent[user])],
    )


def target(name: str, noise_multiplier: float | None, epsilon: float | None, delta: float) -> None:
    """Refuse settings that name neither the noise nor a target, or both, or numbers out of range.

    Raises:
        UsageError: they do.
    """
    if (noise_multiplier is None) == (epsilon is None):
        raise UsageError(
            f"{name} takes either noise_multiplier or epsilon (a target): expected exactly one of them"
        )
    if noise_multiplier is not None:
        bound(f"{name} noise_multiplier", noise_multiplier, zero=True)
    if epsilon is not None:
        bound(f"{name} epsilon", epsilon)
    if not 0.0 < delta < 1.0:
        raise UsageError(f"{name} delta must lie in (0, 1), got {delta}")


def weak_delta(defense: str, delta: float, count: int, units: str) -> list[str]:
    """A caution if δ is so large that a guarantee says little; `count` units, 0 if nobody knows."""
    if not count or delta < 1.0 / count:
        return []
    return [
        f"{defense} delta = {delta:g} is not below 1 / {count} ({units}): to publish one of them, drawn at"
        f" random, would keep such a guarantee as well; set delta well below, e.g. {0.1 / count:.0e}"
    ]
