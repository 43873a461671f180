"""DP-FTRL: user-level privacy without sampling, by noise that belongs to sums over time.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, "Practical and Private (Deep) Learning without Sampling or
Shuffling", ICML 2021, https://arxiv.org/abs/2103.00039, Algorithm 1, and its restarts: after round t the
model stands at

    x_t = x_0 + (Σ_{s<=t} Σ_u clip_C(Δ_u^s) + n_t) / K,      n_t = the sum of t's nodes in a binary tree,

each node N(0, σ²C² I) once and for all. One participation touches ⌊log2 T⌋ + 1 nodes at most, and the noise
in x_t grows with log t, where noise of its own for every round, at the same σ per round, grows with t.
Nothing need be known about who comes when: what each user took part in is counted afterwards
(`fedlab.privacy.trees`), exactly, and not bounded by a number of participations that nobody enforces.

This is an aggregator that returns Σ_u clip_C(Δ_u) / K + (n_t - n_t') / K, where t' is the round before:
behind it the scenario's server optimizer may have a momentum, as in the paper's DP-FTRLM. Nodes are drawn
anew from (seed, tree, end) when they are needed, so that all it remembers is t'; where noise comes from the
operating system, it remembers the nodes that the model holds. A round without a model leaves a gap, in which
nobody took part.

`restart`: a new tree after every so many rounds. What is left of the old one's noise stays in the model, so
its last round releases the whole tree under one node (tree completion).

Deviations: the paper's main variant estimates the sums with all of the tree's nodes (Honaker 2015), which
has less noise for the same ε; here is the plain binary decomposition. Participations are not limited to one
per tree; ε says what those that there were cost.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlab import seeds
from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Event, Guarantee, Ledger
from fedlab.privacy.gaussian import gaussian_epsilon, least
from fedlab.privacy.mechanism import Claim
from fedlab.privacy.noise import standard_normal
from fedlab.privacy.trees import nodes, place, squared_sensitivity, worst_squared_sensitivity
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.aggregators import AggregatorState
from fedlab_defenses.privacy.central import (
    ZERO_OUT,
    QuietRule,
    bound,
    clipped_sum,
    mean_only,
    proved,
    target,
    weak_delta,
    without_batch_norm,
)


class DPFTRL(Defense):
    """The sum of all clipped updates so far, with the noise of a tree: x_t = x_0 + (Σ_{s<=t} Δ_s + n_t) / K.

    Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, "Practical and Private (Deep) Learning without Sampling or
    Shuffling", ICML 2021, https://arxiv.org/abs/2103.00039.

    Protects users from whoever sees the models, under a server that is trusted; it sees all updates.

    Args:
        clip: C, the L2 norm that a user's update of one round is clipped to.
        noise_multiplier: σ, the noise of one node over C. Give this or `epsilon`.
        epsilon: target ε at `delta`; σ is then the smallest that keeps a user within it who takes part as
            often as one can (in all rounds, or `max_participations` times), whenever that is.
        restart: rounds after which a new tree begins; one tree for the whole run unless given.
        delta: δ of the guarantee; should lie well below 1 / (number of users).
    """

    paper = (
        "Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, Practical and Private (Deep) Learning without"
        " Sampling or Shuffling, ICML 2021, https://arxiv.org/abs/2103.00039"
    )
    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 4.0}
    spends = "server"

    def __init__(
        self,
        *,
        clip: Annotated[float, Field(gt=0)] = 1.0,
        noise_multiplier: Annotated[float, Field(ge=0)] | None = None,
        epsilon: Annotated[float, Field(gt=0)] | None = None,
        restart: Annotated[int, Field(ge=1)] | None = None,
        delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
    ) -> None:
        target("dp-ftrl", noise_multiplier, epsilon, delta)
        if restart is not None and restart < 1:
            raise UsageError(f"dp-ftrl restart = {restart}; expected a number of rounds, at least 1")
        self.clip, self.restart = bound("dp-ftrl clip", clip), restart
        self.noise_multiplier, self.epsilon, self.delta = noise_multiplier, epsilon, delta

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(without_batch_norm, "dp-ftrl", factory)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return QuietRule("dp-ftrl", rule)

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        mean_only("dp-ftrl", inner)
        return TreeMean(
            self.clip,
            self.sigma(federation),
            federation.cohort,
            self.restart,
            federation.seed,
            secure=federation.secure,
        )

    def sigma(self, federation: Federation) -> float:
        """The noise multiplier, as given or as the target needs it."""
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0.0)
        return _calibrated(self.epsilon, self.delta, federation.most, federation.rounds, self.restart)

    def cautions(self, federation: Federation) -> Sequence[str]:
        return weak_delta("dp-ftrl", self.delta, len(federation.records), "users")

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        sigma = self.sigma(federation)
        return [Event(client, round, sigma, 1.0, 1, place="server") for client in sorted(set(clients))]

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over users: of one Gaussian with the sensitivity of the user's own rounds."""
        sigma = min((event.noise_multiplier for event in ledger.events), default=0.0)
        squared = {client: self._squared(ledger.of(client)) for client in ledger.clients()}
        spent = {client: self._epsilon(one, sigma) for client, one in squared.items()}
        trees = "one tree" if self.restart is None else f"a tree for every {self.restart} rounds"
        return proved(
            f"DP-FTRL at the server: updates clipped to {self.clip:g}, noise multiplier {sigma:g} per node,"
            f" {trees}",
            ledger,
            spent,
            delta=self.delta,
            accountant="analytic Gaussian, sensitivity of each user's own rounds in the tree",
            adjacency=ZERO_OUT,
            assumptions=(Assumption("no amplification by sampling is claimed", True),),
            histories={
                client: ((sigma / math.sqrt(one), 1.0, 1),) if one and sigma > 0.0 else ()
                for client, one in squared.items()
            },
        )

    def _squared(self, mine: Ledger) -> int:
        """Σ |S ∩ node|² over the nodes that all attempts released, S being the user's rounds.

        An attempt goes on from a checkpoint: what came before it is as the one before left it, and nodes that
        end there keep their noise. Those that end later are drawn, and released, again.
        """
        total, taken = 0, set[int]()
        for attempt, (first, last) in mine.attempts().items():
            taken = {round for round in taken if round < first}
            before = squared_sensitivity(taken, first - 1, self.restart)
            taken |= {event.round for event in mine.events if event.attempt == attempt}
            total += squared_sensitivity(taken, last, self.restart) - before
        return total

    def _epsilon(self, squared: int, sigma: float) -> float:
        mu = math.sqrt(squared) / sigma if sigma > 0.0 else math.inf
        return math.ceil(gaussian_epsilon(mu, self.delta) * 1e9) / 1e9 if math.isfinite(mu) else mu


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, most: int, rounds: int, restart: int | None) -> float:
    worst = math.sqrt(worst_squared_sensitivity(most, rounds, restart))
    return least(lambda sigma: gaussian_epsilon(worst / sigma, delta) <= epsilon, 1e-6)


class TreeMean:
    """(Σ_u clip_C(Δ_u) + n_t - n_t') / K, t' being the round before.

    Its state is t', and with `secure` the noise of each node that is in the model of t'.
    """

    name, counts_alike = "dp-ftrl", True

    def __init__(
        self,
        clip: float,
        sigma: float,
        cohort: int,
        restart: int | None,
        seed: int,
        *,
        secure: bool = False,
    ) -> None:
        self.clip, self.sigma, self.cohort = clip, sigma, cohort
        self.restart, self.seed, self.secure = restart, seed, secure

    @property
    def claim(self) -> Claim:
        """Of the first model, whose noise is one node of the tree."""
        return Claim(self.clip)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        total = clipped_sum(updates, self.clip)
        now, before = self._nodes(updates.round), self._nodes(int(state.get("round", 0)))
        tree = place(updates.round, self.restart)[0]
        before = {node for node in before if node[0] == tree}  # the noise of a tree that ended stays
        noise, after = torch.zeros_like(total), AggregatorState(round=updates.round)
        for node in sorted(now - before):
            drawn = self._node(*node, total)
            noise += drawn
            if self.secure:
                after[_key(*node)] = drawn
        for node in sorted(before - now):
            noise -= state[_key(*node)] if self.secure else self._node(*node, total)
        if self.secure:
            after |= {_key(*node): state[_key(*node)] for node in now & before}
        return (total + self.sigma * self.clip * noise) / self.cohort, after

    def _nodes(self, round: int) -> set[tuple[int, int]]:
        """The nodes, (tree, end), whose noise the round's tree has in the model after it."""
        if round == 0:
            return set()
        tree, position = place(round, self.restart)
        return {(tree, end) for end in nodes(position, self.restart)}

    def _node(self, tree: int, end: int, like: Tensor) -> Tensor:
        generator = seeds.torch_generator(self.seed, "tree", tree, end)
        return standard_normal(like.shape, generator, secure=self.secure, dtype=like.dtype)


def _key(tree: int, end: int) -> str:
    return f"node/{tree}/{end}"
