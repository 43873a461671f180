"""Whom membership attacks are asked about, and about which records.

A target is a client of one of the victims, with all of its observed updates. It is asked about records that
the client used in those rounds (members), each beside a test record of the same label that nobody used.
Clients differ in their labels, and an update tells which ones: without partners of the same label an attack
that reads labels alone would pass for one that knows records. A member without a partner is dropped, and
counted. What labels alone give is written down as a control: the share of a candidate's label among the
target's records. Members and non-members have the same shares, so that it is at chance by construction.

Within a label members come from the training records and the others from the test records. Where these were
split at random from one source, only training tells them apart; where they were not, an attack may see the
difference between the two sets instead, and the report says so.

Each test record is asked about once in a cell, and never belongs to the attacker's own data. Half of the test
records are left to the attacker whatever it is granted, so that all threats are asked about the same records
of a client. The candidates are shuffled by the seed; which of them are members stays here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import seeds
from fedlab.audit import Observation, Proxy, ThreatModel, Victim
from fedlab.audit.membership import Candidates
from fedlab.experiment.cells import Trained
from fedlab.experiment.granting import folded, steps_of
from fedlab.scenario import Scenario
from fedlab.tasks import Records

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """One client, or several of whom only the sum is seen, and the records that are asked about.

    Attributes:
        clients: who it is.
        observations: its own, by round; others: those of everybody else in the same rounds.
    """

    clients: tuple[int, ...]
    observations: Sequence[Observation]
    others: Sequence[Observation]
    candidates: Candidates


@dataclass(frozen=True)
class Questions:
    """What all membership attacks on one cell under one threat are asked.

    Attributes:
        targets: without any truth.
        members: per target (N,) whether each candidate was used; for scoring only.
        shares: per target (N,) the share of each candidate's label among the records that the target used;
            for scoring only.
        dropped: members that are not asked about, because no test record of their label was left.
        victim: public knowledge; its proxy data hold no candidate.
        threat: grants proxy data only if some are left.
    """

    targets: Sequence[Target]
    members: Sequence[Tensor]
    shares: Sequence[Tensor]
    dropped: int
    victim: Victim
    threat: ThreatModel


def questions(
    trained: Trained,
    observed: Sequence[Observation],
    victims: Sequence[Observation],
    victim: Victim,
    threat: ThreatModel,
    scenario: Scenario,
) -> Questions:
    """Draw what is asked about the clients of `victims`, each once.

    Args:
        observed: all observations of the cell.
        victim: with the attacker's proxy data, if it has any; candidates are taken out of them.
        scenario: facing one threat.
    """
    seen = folded(observed, trained.config) if scenario.threat.sums else observed
    train, test = trained.task.train, trained.task.test
    whom = list(dict.fromkeys(_clients(one) for one in victims))
    draws = [seeds.numpy_generator(trained.cell.seed, "candidates", *clients) for clients in whom]
    own = [[one for one in seen if _clients(one) == clients] for clients in whom]
    used = [_used(trained, mine) for mine in own]
    half = scenario.audit.candidates // 2
    wanted = [draw.permutation(ids)[:half] for draw, ids in zip(draws, used, strict=True)]
    found = paired(wanted, train, _pool(trained), test)
    targets, members, shares = [], [], []
    for place, (inside, outside) in enumerate(found):
        if not len(inside):
            continue
        order = torch.from_numpy(draws[place].permutation(len(inside) + len(outside)))
        labels = torch.cat([train.labels(inside), test.labels(outside)])[order]
        images = torch.cat([train.images(inside), test.images(outside)])[order]
        rounds = {one.round for one in own[place]}
        others = [
            one for one in seen if one.round in rounds and not one.repeat and _clients(one) != whom[place]
        ]
        targets.append(Target(whom[place], own[place], others, Candidates(images, labels)))
        members.append((torch.arange(len(order)) < len(inside))[order])
        counts = torch.bincount(train.labels(used[place]), minlength=test.classes)
        shares.append(counts[labels].double() / len(used[place]))
    taken = np.concatenate([np.empty(0, dtype=np.int64), *(outside for _, outside in found)])
    dropped = sum(map(len, wanted)) - len(taken)
    victim = _without(victim, test, taken)
    threat = replace(threat, proxy_data=threat.proxy_data and victim.proxy is not None)
    return Questions(targets, members, shares, dropped, victim, threat)


def paired(wanted: Sequence[Ids], train: Records, pool: Ids, test: Records) -> list[tuple[Ids, Ids]]:
    """(members, non-members) of each target: the nth of both have the same label.

    Targets take turns, one record at a time, so that no target leaves the others nothing.

    Args:
        wanted: per target, ids of training records; those that find no partner are left out.
        pool: ids of test records, each of which is dealt once.
    """
    left: dict[int, list[int]] = {}
    for one, label in zip(pool.tolist(), test.labels(pool).tolist(), strict=True):
        left.setdefault(label, []).append(one)
    pairs: list[list[tuple[int, int]]] = [[] for _ in wanted]
    labelled = [zip(ids.tolist(), train.labels(ids).tolist(), strict=True) for ids in wanted]
    for turn in zip_longest(*labelled):
        for mine, member in zip(pairs, turn, strict=True):
            if member is not None and left.get(member[1]):
                mine.append((member[0], left[member[1]].pop()))
    columns = [np.array(mine, dtype=np.int64).reshape(-1, 2) for mine in pairs]
    return [(both[:, 0], both[:, 1]) for both in columns]


def _clients(one: Observation) -> tuple[int, ...]:
    """Who is behind an observation."""
    return tuple(sorted({part.client for part in one.parts})) or (one.client,)


def _used(trained: Trained, observations: Sequence[Observation]) -> Ids:
    """Ids of the records behind observations, each once."""
    steps = [ids for one in observations for part in one.parts or (one,) for ids in steps_of(trained, part)]
    return np.asarray(np.unique(np.concatenate(steps)), dtype=np.int64)


def _pool(trained: Trained) -> Ids:
    """Test records to ask about: half of them, for an attacker may need some of its own.

    None where an app's clients were watched: no record is known that none of them used.
    """
    test = trained.task.test
    if trained.used is not None:
        return np.empty(0, dtype=np.int64)
    order = seeds.numpy_generator(trained.cell.seed, "non-members").permutation(len(test))
    return np.asarray(order[: len(order) // 2], dtype=np.int64)


def _without(victim: Victim, test: Records, taken: Ids) -> Victim:
    """The victim with proxy data of which none is asked about."""
    if victim.proxy is None or not len(taken):
        return victim
    asked = {image.numpy().tobytes() for image in test.images(taken)}
    kept = torch.tensor([image.numpy().tobytes() not in asked for image in victim.proxy.images])
    left = Proxy(victim.proxy.images[kept], victim.proxy.labels[kept]) if bool(kept.any()) else None
    return replace(victim, proxy=left)
