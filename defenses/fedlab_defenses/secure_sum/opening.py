"""Opening a sum: the masks that do not cancel grow from secrets that the survivors' shares give back.

Of Σ_u y_u over the clients whose masked vectors came, each client's own mask is left, and one mask for each
pair of which the other end dropped out after it had shared its secrets. Of the former the neighbours tell
the seed, of the latter the private key; of no client both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add

from fedlab.errors import DataError
from fedlab_defenses.secure_sum.client import grown
from fedlab_defenses.secure_sum.keys import KeyPair, mask_key
from fedlab_defenses.secure_sum.plan import Plan
from fedlab_defenses.secure_sum.shares import combine
from fedlab_defenses.secure_sum.vectors import Vectors


@dataclass
class Public:
    """What a server holds of a round besides masked vectors, by node.

    Attributes:
        letters, masks: public keys.
        nodes: neighbourhoods, the node itself among them.
        sealed: letters, by sender and receiver.
    """

    letters: dict[int, bytes] = field(default_factory=dict)
    masks: dict[int, bytes] = field(default_factory=dict)
    nodes: dict[int, list[int]] = field(default_factory=dict)
    sealed: dict[int, dict[int, bytes]] = field(default_factory=dict)


def opened(
    plan: Plan,
    public: Public,
    vectors: Mapping[int, Vectors],
    told: Mapping[int, Mapping[int, bytes]],
) -> Vectors:
    """The sum of what clients masked.

    Args:
        vectors: those that came, by node.
        told: shares, by the node that they are of and the node that tells them.

    Raises:
        DataError: too few shares of a secret came, or they do not fit.
    """
    total = functools.reduce(add, (vectors[node] for node in sorted(vectors)))
    for node in sorted(vectors):
        secret = _secret(plan, public.nodes[node], node, told.get(node, {}), "mask")
        total = total - grown(mask_key(secret), total)
    for node in sorted(public.sealed.keys() - vectors.keys()):
        left = [one for one in public.nodes[node] if one in vectors]
        if not left:
            continue  # nobody put a mask on that it shares with this one
        pair = KeyPair.of(_secret(plan, public.nodes[node], node, told.get(node, {}), "key"))
        if pair.public != public.masks[node]:
            raise DataError(f"the shares of node {node}'s key make another key; some are forged")
        total = _without(total, node, pair, left, public)
    return total


def _without(total: Vectors, node: int, pair: KeyPair, left: Iterable[int], public: Public) -> Vectors:
    """Take off what the clients that are left have put on for their pairs with `node`."""
    for other in left:
        one = grown(pair.agree(public.masks[other], b"masks"), total)
        total = total - one if other < node else total + one
    return total


def _secret(plan: Plan, nodes: Sequence[int], node: int, told: Mapping[int, bytes], what: str) -> bytes:
    needed = plan.needed(len(nodes))
    shares = {nodes.index(teller) + 1: share for teller, share in told.items() if teller in nodes}
    if len(shares) < needed:
        raise DataError(f"{len(shares)} shares of node {node}'s {what} came; {needed} are needed")
    chosen = sorted(shares)[:needed]
    return combine({x: shares[x] for x in chosen})
