"""The contract of a defense: hooks that default to doing nothing.

A defense changes the network (`model`), how a client trains (`local_rule`, `config`), what runs
around a client (`mods`) or what the server does (`strategy`), and says what it can prove
(`guarantee`). Override the hooks that the defense is about, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.rules import LocalRule
from fedlab.privacy import Guarantee, Ledger

if TYPE_CHECKING:
    from flwr.clientapp.typing import Mod
    from flwr.serverapp.strategy import Strategy

NetworkFactory = Callable[[], nn.Module]


class Defense:
    """Does nothing; subclasses override what they change."""

    paper: ClassVar[str] = ""

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """Change the architecture: a factory for the defended network."""
        return factory

    def config(self, config: ClientConfig) -> ClientConfig:
        """Change the client's configuration (its batch size, its sampling)."""
        return config

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        """Wrap the client's training rule."""
        return rule

    def mods(self) -> Sequence[Mod]:
        """Flower mods around the ClientApp."""
        return ()

    def strategy(self, inner: Strategy) -> Strategy:
        """Wrap the server's strategy."""
        return inner

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """What can be proved about the mechanism events in `ledger`; None is "no formal guarantee"."""
        return None
