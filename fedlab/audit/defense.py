"""The contract of a defense: hooks that default to doing nothing.

A defense changes the network (`network`), how a client trains (`local_rule`, `config`), what runs
around a client (`mods`) or between clients and server (`grid`), how the server combines updates
(`aggregator`) or all that it does (`strategy`). It says what that spends (`charge`) and what it can prove
(`guarantee`), what an attacker can make of knowing it (`disclosure`), and which attacks do (`adaptive`).
Override the hooks that the defense is about, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.rules import LocalRule
from fedlab.privacy import Event, Guarantee, Ledger
from fedlab.tasks import FunctionalModel

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from fedlab.strategies import Aggregator

NetworkFactory = Callable[[], nn.Module]


class Defense:
    """Does nothing; subclasses override what they change.

    Class attributes:
        paper: citation of where the defense comes from.
        sees: what the server gets to see: each client's update, or only what its aggregator made of them.
        spends: where it adds noise that a ledger accounts for: in the clients, at the server, or nowhere.
        adaptive: names of the attacks that know this defense, strongest first; an audit runs them against it
            beside its own.
    """

    paper: ClassVar[str] = ""
    sees: Literal["updates", "sums"] = "updates"
    spends: ClassVar[Literal["", "client", "server"]] = ""
    adaptive: tuple[str, ...] = ()

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """Change the architecture: a factory for the defended network."""
        return factory

    def config(self, config: ClientConfig) -> ClientConfig:
        """Change the client's configuration (its batch size, its sampling)."""
        return config

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        """Wrap the client's training rule."""
        return rule

    def cautions(self, federation: Federation) -> Sequence[str]:
        """Settings that are allowed, and seldom meant: told before training, which goes on."""
        return ()

    def mods(self) -> Sequence[Mod]:
        """Flower mods around the ClientApp."""
        return ()

    def grid(self, inner: Grid, federation: Federation) -> Grid:
        """Wrap the Grid: a protocol between clients and server. Guard and tap stand on the server's side."""
        return inner

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        """Wrap what combines a round's updates, under a synchronous and an asynchronous server alike.

        The updates come as the server weighs them: multiplied by their staleness weights.
        """
        return inner

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        """What combining these clients' updates will spend at the server; called before it happens.

        A client is named as often as it has updates among them. Named alone it is charged the most that a
        round may cost it: where noise grows with those who answer, that of the fewest. What clients
        spend in their own training they report themselves.
        """
        return []

    def strategy(self, inner: Strategy) -> Strategy:
        """Wrap the server's strategy."""
        return inner

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        """What an attacker can use who knows the defense, on the network that it defends."""
        return Disclosure()

    def uplink_bytes(self, values: int) -> float:
        """Bytes that an update of so many float32 values takes on the wire, as the defense would code it."""
        return 4.0 * values

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """What can be proved about the mechanism events in `ledger`; None is "no formal guarantee"."""
        return None
