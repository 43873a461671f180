"""Who owns which record: exact, seeded divisions of a data set among clients.

Every partition is called `f(data, clients, *, generator, min_size=1, **params)` and returns, per
client, the sorted ids of its records. No two clients own the same record, and together they own all of
them (not so in `dominant`, which says how many a client gets, nor in `drawn`, where clients draw their own
and nothing is divided: see `fedlab.tasks.population`). A client that would fall short of
`min_size` gets records from whoever is richest, one by one: a repair that always ends and draws nothing,
where drawing again until all are large enough may never end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import UsageError
from fedlab.tasks.population import Ids, drawn
from fedlab.tasks.task import Dataset, Records


def iid(data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1) -> list[Ids]:
    """Shuffled and dealt out: sizes differ by one at most.

    Args:
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    return _finish(np.array_split(generator.permutation(len(data)), clients), min_size)


def dirichlet(
    data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1, alpha: float = 0.5
) -> list[Ids]:
    """Label skew: the records of each class are shared out in proportions drawn from Dir(alpha).

    Per class over the clients, as Yurochkin et al. (ICML 2019, https://arxiv.org/abs/1905.12022) and
    Li et al. (ICDE 2022, https://arxiv.org/abs/2102.02079); Hsu et al. (2019,
    https://arxiv.org/abs/1909.06335) instead draw a mixture of classes per client. Deviation: no
    cap on the size of a client, and small clients are topped up instead of drawing again.

    Args:
        alpha: concentration, 0.0001 to 1000000; small gives each client few classes.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    _check_alpha(alpha)
    shares: list[list[Ids]] = [[] for _ in range(clients)]
    for label in range(data.classes):
        ids = generator.permutation(np.flatnonzero(data.y == label))
        for share, piece in zip(shares, _cut(ids, _proportions(clients, alpha, generator)), strict=True):
            share.append(piece)
    # Shuffled, so that topping up takes from any class of the richest, not from its last.
    return _finish([generator.permutation(np.concatenate(share)) for share in shares], min_size)


def shards(
    data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1, per_client: int = 2
) -> list[Ids]:
    """Label skew: records sorted by label, cut into equal shards, `per_client` dealt to each client.

    McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629, section 3. Deviation: within a
    label the order is drawn, and shards differ by one record when they do not come out even.

    Args:
        per_client: shards per client, hence about how many classes it sees.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    if isinstance(per_client, bool) or not isinstance(per_client, int) or per_client < 1:
        raise UsageError(f"per_client = {per_client!r}; expected a whole number of at least 1")
    count = clients * per_client
    if count > len(data):
        raise UsageError(
            f"{clients} clients with {per_client} shards each need {count} records, but {data.name} has"
            f" {len(data)}; take fewer clients or shards"
        )
    order = generator.permutation(len(data))
    pieces = np.array_split(order[np.argsort(data.y[order], kind="stable")], count)
    dealt = generator.permutation(count).reshape(clients, per_client)
    return _finish([np.concatenate([pieces[shard] for shard in hand]) for hand in dealt], min_size)


def quantity(
    data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1, alpha: float = 0.5
) -> list[Ids]:
    """Size skew: shuffled, then shared out in proportions drawn from Dir(alpha), whatever the labels.

    "Quantity skew" of Li et al., ICDE 2022, https://arxiv.org/abs/2102.02079.

    Args:
        alpha: concentration, 0.0001 to 1000000; small gives a few clients nearly everything.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    _check_alpha(alpha)
    proportions = _proportions(clients, alpha, generator)
    return _finish(_cut(generator.permutation(len(data)), proportions), min_size)


def feature(
    data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1, strength: float = 1.0
) -> list[Ids]:
    """Feature skew: records in order of their group, or of their mean brightness, cut into equal runs.

    With groups (photographs, writers) a client sees one or a few of them; without, the first client
    sees the darkest images and the last the brightest.

    Args:
        strength: 1 sorts fully, 0 shuffles as `iid`; between, each record's rank is mixed with a drawn one.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength = {strength!r}; expected a number from 0 to 1")
    drawn = generator.permutation(len(data))  # also settles the order inside a group
    key = data.groups if data.groups is not None else _brightness(data)
    sorted_rank = np.empty(len(data))
    sorted_rank[np.lexsort((drawn, key))] = np.arange(len(data))
    order = np.lexsort((drawn, strength * sorted_rank + (1.0 - strength) * drawn))
    return _finish(np.array_split(order, clients), min_size)


def natural(data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1) -> list[Ids]:
    """Each group of the data (a user, a photograph) is a client, in the order of their numbers.

    Args:
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    groups = np.unique(data.groups) if data.groups is not None else ()
    if len(groups) != clients:
        raise UsageError(
            f"{data.name} has {len(groups)} groups with records for training, but clients.count is {clients};"
            + (" make them equal" if len(groups) else " the partition natural needs groups, take another one")
        )
    return _finish([np.flatnonzero(data.groups == group) for group in groups], min_size)


def classes(
    data: Dataset, clients: int, *, generator: np.random.Generator, min_size: int = 1, per_client: int = 2
) -> list[Ids]:
    """Label skew: each client holds `per_client` classes, and unequal shares of them.

    Shamsian, Navon, Fetaya, Chechik, "Personalized Federated Learning using Hypernetworks", ICML 2021,
    https://arxiv.org/abs/2103.04628, section 5.1: those who hold a class share it in proportions drawn from
    U(0.4, 0.6). Deviation: clients get the classes that fewest hold so far, so that all are held
    about equally often.

    Args:
        per_client: classes of each client.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    if isinstance(per_client, bool) or not isinstance(per_client, int) or not 1 <= per_client <= data.classes:
        raise UsageError(f"per_client = {per_client!r}; expected a whole number from 1 to {data.classes}")
    if clients * per_client < data.classes:
        raise UsageError(
            f"{clients} clients with {per_client} classes each cannot hold {data.classes}; raise either"
        )
    held = np.zeros((clients, data.classes), dtype=bool)
    for client in range(clients):
        order = np.lexsort((generator.random(data.classes), held.sum(0)))
        held[client, order[:per_client]] = True
    shares: list[list[Ids]] = [[np.empty(0, dtype=np.int64)] for _ in range(clients)]
    for label in range(data.classes):
        ids = generator.permutation(np.flatnonzero(data.y == label))
        holders = np.flatnonzero(held[:, label])
        weights = generator.uniform(0.4, 0.6, len(holders))
        for client, piece in zip(holders.tolist(), _cut(ids, weights / weights.sum()), strict=True):
            shares[client].append(piece)
    return _finish([generator.permutation(np.concatenate(share)) for share in shares], min_size)


def dominant(
    data: Dataset,
    clients: int,
    *,
    generator: np.random.Generator,
    min_size: int = 1,
    per_client: int = 60,
    share: float = 0.8,
) -> list[Ids]:
    """Label skew: most records of a client come from three neighbouring classes, the rest from all.

    Guo et al., "A New Federated Learning Framework Against Gradient Inversion Attacks", AAAI 2025,
    https://arxiv.org/abs/2412.07187, as in its code: client i draws from the classes 2i, 2i + 1
    and 2i + 2, round the circle, so that of ten classes there are five groups, each of which shares a class
    with the next. Deviation: no record is dealt twice, where the code begins again once a class runs out.

    Args:
        per_client: records of each client.
        share: of them, how many come from its own three classes; the others from all classes equally.
        min_size: least records per client.
    """
    _check(data, clients, min_size)
    if isinstance(per_client, bool) or not isinstance(per_client, int) or per_client < min_size:
        raise UsageError(f"per_client = {per_client!r}; expected a whole number of at least {min_size}")
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"share = {share!r}; expected a number from 0 to 1")
    stacks = [generator.permutation(np.flatnonzero(data.y == label)) for label in range(data.classes)]
    taken = [0] * data.classes
    own = round(share * per_client)
    owned = []
    for client in range(clients):
        group = [(2 * client + step) % data.classes for step in range(min(3, data.classes))]
        wanted = np.zeros(data.classes, dtype=np.int64)
        for labels, count in ((group, own), (range(data.classes), per_client - own)):
            for position in range(count):
                wanted[labels[(position + client) % len(labels)]] += 1
        for label in np.flatnonzero(taken + wanted > [len(stack) for stack in stacks]):
            raise UsageError(
                f"class {label} of {data.name} has {len(stacks[label])} records for training, and client"
                f" {client} finds {len(stacks[label]) - taken[label]} left of {wanted[label]}; lower"
                f" per_client = {per_client} or the number of clients"
            )
        parts = [stacks[label][taken[label] : taken[label] + n] for label, n in enumerate(wanted)]
        taken = [before + int(n) for before, n in zip(taken, wanted, strict=True)]
        owned.append(np.sort(np.concatenate(parts)))
    return owned


PARTITIONS: dict[str, Callable[..., Sequence[Ids]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "shards": shards,
    "quantity": quantity,
    "feature": feature,
    "natural": natural,
    "classes": classes,
    "dominant": dominant,
    "drawn": drawn,
}
"""Every partition by the name that a scenario gives it."""


def _check(data: Records, clients: int, min_size: int) -> None:
    if not isinstance(data, Dataset):
        raise UsageError(
            f"the records of {data.name} are made when they are asked for, and cannot be shared out; take the"
            " partition drawn, or say how many records there are"
        )
    for name, value in (("clients", clients), ("min_size", min_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} = {value!r}; expected a whole number of at least 1")
    if clients * min_size > len(data):
        raise UsageError(
            f"{clients} clients with at least {min_size} record{'s' if min_size > 1 else ''} each need"
            f" {clients * min_size}, but {data.name} has {len(data)} for training; take fewer clients"
            + (" or a smaller min_size" if min_size > 1 else "")
            + ", or the partition drawn, whose clients share records"
        )


def _check_alpha(alpha: float) -> None:
    # Beyond these the draw is all on one client or all equal, and its gammas leave float64.
    if not 1e-4 <= alpha <= 1e6:
        raise UsageError(f"alpha = {alpha!r}; expected a number from 0.0001 to 1000000")


def _proportions(clients: int, alpha: float, generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.dirichlet(np.full(clients, alpha))


def _cut(ids: Ids, proportions: NDArray[np.float64]) -> list[Ids]:
    """Cut `ids` at the rounded cumulative proportions: one piece per proportion, nothing lost."""
    ends = np.rint(np.cumsum(proportions[:-1]) * len(ids)).astype(np.int64)
    return np.split(ids, np.clip(ends, 0, len(ids)))


def _brightness(data: Dataset) -> NDArray[np.float64]:
    means: NDArray[np.float64] = data.x.reshape(len(data), -1).mean(axis=1, dtype=np.float64)
    return means


def _finish(shares: Sequence[Ids], min_size: int) -> list[Ids]:
    """Top up the poor from the richest (lowest client first among equals), then sort each share."""
    owned = [share.tolist() for share in shares]
    sizes = np.array([len(share) for share in owned])
    for client in np.flatnonzero(sizes < min_size):
        while sizes[client] < min_size:
            # Someone has more than min_size: otherwise all records together were too few.
            richest = int(sizes.argmax())
            owned[client].append(owned[richest].pop())
            sizes[richest] -= 1
            sizes[client] += 1
    return [np.sort(np.array(share, dtype=np.int64)) for share in owned]
