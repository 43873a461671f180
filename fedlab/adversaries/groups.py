"""Who attacks: the clients of each adversary of a scenario."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedlab import seeds
from fedlab.adversaries.contract import Adversary
from fedlab.errors import UsageError

LISTED = 10**7
"""Clients of whom a share may be drawn, one by one."""


@dataclass(frozen=True)
class Group:
    """Clients that attack together.

    Attributes:
        clients: their numbers, ascending.
    """

    label: str
    adversary: Adversary
    clients: tuple[int, ...]

    @property
    def crafts(self) -> bool:
        """Whether they send anything else than what they trained."""
        return type(self.adversary).craft is not Adversary.craft

    @property
    def poisons(self) -> bool:
        """Whether they train on anything else than their own records."""
        return type(self.adversary).poison is not Adversary.poison


class Recruits(NamedTuple):
    """What a scenario says of a group: a `fraction` of all clients, rounded, or the `clients` by number."""

    label: str
    adversary: Adversary
    fraction: float | None = None
    clients: Sequence[int] | None = None


def groups(recruits: Iterable[Recruits], count: int, seed: int) -> tuple[Group, ...]:
    """The groups among `count` clients; they share no client.

    Those who are named come first; fractions are drawn from the others, by the seed.

    Raises:
        UsageError: a client twice, or one that does not exist; more adversaries than clients; a fraction that
            is too small for one, or of too many clients to list.
    """
    entries = list(recruits)
    owner: dict[int, str] = {}
    for one in entries:
        for client in one.clients or ():
            if not 0 <= client < count:
                raise UsageError(f"adversary {one.label}: client {client}; expected 0 to {count - 1}")
            if client in owner:
                raise UsageError(
                    f"adversary {one.label}: client {client} belongs to {owner[client]} already; name each"
                    " client once"
                )
            owner[client] = one.label
    left: list[int] = []
    order: list[int] = []
    if any(one.clients is None for one in entries):
        _listable(count)
        left = [client for client in range(count) if client not in owner]
        order = seeds.numpy_generator(seed, "adversaries").permutation(len(left)).tolist()
    found = []
    for one in entries:
        clients = list(one.clients or ())
        if one.clients is None:
            size = round((one.fraction or 0.0) * count)
            if one.fraction and size == 0:
                raise UsageError(
                    f"adversary {one.label}: a fraction of {one.fraction:g} of {count} clients is none;"
                    " raise it, or say 0 to measure training without an attack"
                )
            if size > len(order):
                raise UsageError(
                    f"adversary {one.label}: {size} clients, but only {len(order)} of {count} are left;"
                    " lower the fractions"
                )
            clients = [left[position] for position in order[:size]]
            order = order[size:]
        found.append(Group(one.label, one.adversary, tuple(sorted(clients))))
    return tuple(found)


def _listable(count: int) -> None:
    if count > LISTED:
        raise UsageError(
            f"a fraction of {count} clients cannot be drawn, {LISTED} is the most; name the adversaries'"
            " `clients` by number: those whom a run never asks attack nobody"
        )
