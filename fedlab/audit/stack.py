"""Several defenses at once, from the record to the server.

The first is nearest to the records: its hooks wrap first, and what the next ones change, they change of that.
A network is changed by the first, then by the second; an update is made private by the first and pruned by
the second. Two defenses that spend privacy keep one ledger, in which events carry the mechanism's name, and
what each proves stands beside the other: their ε are about different units, and are never added up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedlab import plugins
from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import PluginError, UsageError
from fedlab.privacy import Event, Guarantee, Ledger
from fedlab.tasks import FunctionalModel

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedlab.strategies import Aggregator


class Stack(Defense):
    """Applies several defenses, the first nearest to the records.

    Args:
        of: the defenses, as tables with a `name` and parameters: `of = [{ name = "dp-sgd", epsilon = 8.0 },
            { name = "gradient-pruning" }]`.
    """

    example: ClassVar[dict[str, Any]] = {"of": [{"name": "none"}]}

    def __init__(self, *, of: list[dict[str, Any]]) -> None:
        if not of:
            raise UsageError('stack of = []; expected at least one defense, as in of = [{ name = "dp-sgd" }]')
        self.layers = [_built(table) for table in of]
        self.sees = "sums" if any(one.sees == "sums" for one in self.layers) else "updates"
        self.adaptive = tuple(dict.fromkeys(name for one in self.layers for name in one.adaptive))
        places = [one.spends for one in self.layers if one.spends]
        for place in places:
            if places.count(place) > 1:
                names = " and ".join(type(one).__name__ for one in self.layers if one.spends == place)
                raise UsageError(
                    f"stack: {names} both add noise at the {place}, and one ledger cannot tell them apart;"
                    " expected at most one such defense; leave one out"
                )

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.reduce(lambda made, one: one.network(made), self.layers, factory)

    def config(self, config: ClientConfig) -> ClientConfig:
        return functools.reduce(lambda made, one: one.config(made), self.layers, config)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return functools.reduce(lambda made, one: one.local_rule(made, federation), self.layers, rule)

    def cautions(self, federation: Federation) -> Sequence[str]:
        return [caution for one in self.layers for caution in one.cautions(federation)]

    def mods(self) -> Sequence[Mod]:
        # Flower calls the first mod first: the one nearest to the server.
        return [mod for one in reversed(self.layers) for mod in one.mods()]

    def grid(self, inner: Grid, federation: Federation) -> Grid:
        return functools.reduce(lambda made, one: one.grid(made, federation), self.layers, inner)

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        return functools.reduce(lambda made, one: one.aggregator(made, federation), self.layers, inner)

    def strategy(self, inner: Strategy) -> Strategy:
        return functools.reduce(lambda made, one: one.strategy(made), self.layers, inner)

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        return [event for one in self.layers for event in one.charge(clients, round, federation)]

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        told = [one.disclosure(model) for one in self.layers]
        return functools.reduce(Disclosure.then, told, Disclosure())

    def uplink_bytes(self, values: int) -> float:
        """The fewest of a layer's; under masks all numbers travel, whatever was left out before."""
        sums = [one.uplink_bytes(values) for one in self.layers if one.sees == "sums"]
        return max(sums) if sums else min(one.uplink_bytes(values) for one in self.layers)

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The first layer's that gives an ε, with what the others prove (or say) beside it."""
        said = [
            (one.guarantee(ledger.only(one.spends) if one.spends else ledger), one.spends)
            for one in self.layers
        ]
        told = [replace(one, place=one.place or place) for one, place in said if one is not None]
        found = sorted(told, key=lambda one: one.epsilon is None)
        return replace(found[0], beside=tuple(found[1:])) if found else None


def _built(table: object) -> Defense:
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UsageError(
            f'stack of = [{table!r}, ...]; expected tables with a name, as {{ name = "dp-sgd" }}'
        )
    made = plugins.build("defenses", table)
    if not isinstance(made, Defense):
        raise PluginError(
            f"the defense {table['name']!r} (from {plugins.provider('defenses', table['name'])}) is a"
            f" {type(made).__name__}; expected a subclass of fedlab.audit.Defense"
        )
    return made
