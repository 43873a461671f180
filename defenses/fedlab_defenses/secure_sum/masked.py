"""Secure aggregation carried out: masked vectors over Flower's messages, and a server that opens sums.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017, https://dl.acm.org/doi/10.1145/3133956.3133982 (double masks,
shares of both secrets, four stages); Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server
Aggregation with (Poly)Logarithmic Overhead", CCS 2020, https://eprint.iacr.org/2020/704 (SecAgg+: masks among
`neighbours` only). Client u sends, modulo 2^32 (or 2^64),

    y_u = x_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) − Σ_{v < u} PRG(s_uv),

where x_u are the integers of its weighted update and its figures (`vectors`), b_u its own seed, and s_uv what
u and its neighbour v have agreed on. Of clients whose vectors came the others tell b_u, of those that dropped
out the key behind s_uv; of nobody both.

Deviations: the sealed shares reach their receivers with the last message, where they are needed; X25519,
ChaCha20 and shares over a prime field instead of the papers' parts; a majority of a neighbourhood opens its
secrets where there is a graph, `threshold` clients where all are neighbours. No signatures and no check of
consistency among clients: the server follows the protocol. flwr 1.41's SecAgg+ clips parameters beyond 8;
here updates are clipped, and their sums cannot overflow.

In a simulation the keys come from the seed tree, and whoever knows the seed can take the masks off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedlab import seeds
from fedlab.audit.defense import Defense
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, Ledger
from fedlab.strategies import Aggregator
from fedlab.strategies.aggregators import FunctionAggregator, mean
from fedlab.strategies.rounds import OwnRounds
from fedlab_defenses.privacy.central import mean_only, plain_server
from fedlab_defenses.privacy.lattice import OnLattice
from fedlab_defenses.secure_sum.client import Masking
from fedlab_defenses.secure_sum.plan import Plan
from fedlab_defenses.secure_sum.quantisation import FINEST, quantiser
from fedlab_defenses.secure_sum.server import MaskedGrid
from fedlab_defenses.secure_sum.view import Opened

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy


class SecAggPlus(Defense):
    """Clients mask their updates, and the server opens the sum of at least `threshold` of them: SecAgg+.

    Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017,
    https://dl.acm.org/doi/10.1145/3133956.3133982; Bell et al., "Secure Single-Server Aggregation with
    (Poly)Logarithmic Overhead", CCS 2020, https://eprint.iacr.org/2020/704.

    Args:
        threshold: clients that a sum is made of at least; with fewer there is no sum and no model. Two thirds
            of the cohort unless given; always more than half of it, and at least 2.
        clip: numbers of an update (of its every coordinate, not of the model) beyond ±clip are set to it.
        levels: integers that this range is divided into: an update is off by half of one of them at most.
        bits: 32 or 64 for each masked number; as many as the sum needs unless given.
        neighbours: clients that each client shares masks with, an even number; all others unless given.
        patience: seconds that the stages beside training wait for clients; for all unless given, which
            on real nodes may be long.
    """

    paper = (
        "Bell et al., Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, CCS 2020,"
        " https://eprint.iacr.org/2020/704; Bonawitz et al., CCS 2017"
    )
    sees = "sums"
    adaptive = ("cascade", "inverting-gradients")  # a sum of updates is the update of one larger batch
    example: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        *,
        threshold: Annotated[int, Field(ge=2)] | None = None,
        clip: Annotated[float, Field(gt=0)] = 8.0,
        levels: Annotated[int, Field(ge=2, le=FINEST)] = 2**22,
        bits: Literal[32, 64] | None = None,
        neighbours: Annotated[int, Field(ge=2)] | None = None,
        patience: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        if threshold is not None and threshold < 2:
            raise UsageError(
                f"secagg-plus threshold = {threshold}; expected at least 2: a sum of one is that update"
            )
        if not 0.0 < clip < math.inf:
            raise UsageError(f"secagg-plus clip = {clip}; expected a finite number above 0")
        if not 2 <= levels <= FINEST or levels % 2:
            raise UsageError(f"secagg-plus levels = {levels}; expected an even number from 2 to {FINEST}")
        if bits not in (None, 32, 64):
            raise UsageError(f"secagg-plus bits = {bits}; expected 32 or 64")
        if neighbours is not None and (neighbours < 2 or neighbours % 2):
            raise UsageError(f"secagg-plus neighbours = {neighbours}; expected an even number, at least 2")
        if patience is not None and not 0.0 < patience < math.inf:
            raise UsageError(f"secagg-plus patience = {patience}; expected seconds above 0, and finite")
        self.threshold, self.clip, self.levels, self.bits = threshold, clip, levels, bits
        self.neighbours, self.patience = neighbours, patience
        self._federation: Federation | None = None
        self._alike = False

    def plan(self, federation: Federation) -> Plan:
        """What clients and server agree on.

        Raises:
            UsageError: a threshold out of reach, or one at which half of a cohort could be opened; numbers
                that may overflow.
        """
        cohort = federation.cohort
        least = max(2, cohort // 2 + 1)
        threshold = max(math.ceil(2 * cohort / 3), least) if self.threshold is None else self.threshold
        if not least <= threshold <= cohort:
            raise UsageError(
                f"secagg-plus threshold = {threshold} of a cohort of {cohort}; expected {least} to {cohort}:"
                " with half of a cohort and less, the halves could be told different things"
                if cohort > 1
                else f"secagg-plus has nothing to add up: strategy.cohort = {cohort}; expected at least 2"
            )
        if threshold < federation.quorum:
            raise UsageError(
                f"secagg-plus threshold = {threshold}, but strategy.quorum = {federation.quorum}: sums would"
                " be opened that make no model; raise the threshold, or lower the quorum"
            )
        capacity = 4 * cohort  # some samplers ask more than the cohort
        numbers = quantiser(self.clip, self.levels, self.bits, capacity)
        return Plan(numbers, threshold, self.neighbours, capacity)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        plain_server("secagg-plus", rule)
        self.plan(federation)
        self._federation = federation
        return rule

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        plan = self.plan(federation)
        if isinstance(inner, OnLattice):
            inner = inner.under_masks("secagg-plus", plan.quantiser.step, self.clip, plan.threshold)
        mean_only("secagg-plus", inner)
        self._alike = isinstance(inner, FunctionAggregator) and inner.plain is mean
        return Opened(inner, plan.threshold)

    def mods(self) -> Sequence[Mod]:
        """Masks for the clients that `local_rule` and `aggregator` were told of."""
        known = self._federation
        if known is None:
            raise UsageError("secagg-plus: local_rule(rule, federation) comes before mods()")
        cap = 1 if self._alike else max(known.sizes)
        return [Masking(self.plan(known), cap, None if known.secure else known.seed)]

    def grid(self, inner: Grid, federation: Federation) -> Grid:
        if crafted := [str(group.label) for group in getattr(inner, "groups", ())]:
            raise UsageError(
                f"the adversaries {', '.join(crafted)} replace updates on their way to the server, where"
                " secagg-plus has masked them; choose adversaries that poison records, or the defense"
                " secure-aggregation (the same view without masks)"
            )
        order = functools.partial(seeds.numpy_generator, federation.seed, "secagg", "neighbours")
        return MaskedGrid(
            inner, self.plan(federation), order, enough=federation.enough, patience=self.patience
        )

    def strategy(self, inner: Strategy) -> Strategy:
        if isinstance(inner, OwnRounds):
            raise UsageError(
                f"secagg-plus adds up what clients of one round send, but {type(inner).__name__} has no such"
                ' rounds; set strategy.name = "fedavg", or take the defense secure-aggregation'
            )
        return inner

    def uplink_bytes(self, values: int) -> float:
        """Masked vector, keys and shares of a round that nobody drops out of."""
        known = self._federation
        return 4.0 * values if known is None else self.plan(known).uplink_bytes(values, known.cohort)

    def guarantee(self, ledger: Ledger) -> Guarantee:
        """None, and why."""
        known = self._federation
        step = 2.0 * self.clip / self.levels
        threshold = "the threshold" if known is None else f"{self.plan(known).threshold} clients"
        secure = known is not None and known.secure
        source = "the operating system" if secure else "the seed tree of a simulation"
        return Guarantee(
            mechanism="secure aggregation (SecAgg+): the server opens sums of masked updates",
            epsilon=None,
            delta=0.0,
            unit="one client",
            adjacency="none",
            accountant="none",
            noise="none",
            assumptions=(
                Assumption(f"nothing is opened of fewer than {threshold}", True),
                Assumption(f"masks come from {source}, which the server does not know", secure),
                Assumption("the server follows the protocol, and tells every client the same", True),
                Assumption("fewer than the threshold of clients tell the server what they know", True),
                Assumption(
                    f"rounding moves a coordinate of the mean by {step / 2:.2g} at most where clients count"
                    f" alike (else times the largest weight over the mean one), clipping those beyond"
                    f" {self.clip:g}",
                    True,
                ),
            ),
            reason="secure aggregation alone gives no ε: a sum of updates has no noise in it",
        )
