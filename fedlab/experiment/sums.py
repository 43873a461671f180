"""What a server holds that sees no update, but only what its aggregator made of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fedlab.audit import KnownConfig, Observation, Part
from fedlab.clients import ClientConfig
from fedlab.runtime import client_of
from fedlab.strategies.deltas import unflatten
from fedlab.strategies.learner import Arrival
from fedlab.strategies.replies import figures
from fedlab.tasks import FunctionalModel, State


def summed(
    model: FunctionalModel,
    config: ClientConfig,
    arrivals: Sequence[Arrival],
    delta: Tensor,
    after: State,
    round: int,
) -> Observation:
    """The observation of one server update.

    Args:
        config: what clients were told.
        delta: (d,) the mean of the updates, as the server weighs them.
        after: the model that was made; its buffers are the means of the clients'.
    """
    before = _mostly(arrivals, round)
    names = [name for name in model.parameter_names if name in before]
    parts = [
        Part(client_of(one.node), round if one.round is None else one.round, one.repeat, one.epochs)
        for one in arrivals
    ]
    parts.sort(key=lambda part: (part.client, part.round, part.repeat))
    examples = int(sum(figures(one.reply)["num-examples"] for one in arrivals) + 0.5)  # masked: of means
    together = len(parts) * config.batch_size  # 0 means all records, of many clients as of one
    return Observation(
        round=round,
        client=parts[0].client,
        before={name: before[name] for name in names},
        update=unflatten(delta, before, names),
        buffers_before=model.buffers_of(before),
        buffers_after=model.buffers_of(after),
        config=replace(KnownConfig.all_of(config), batch_size=together),
        examples=examples,
        parts=tuple(parts),
    )


def _mostly(arrivals: Sequence[Arrival], round: int) -> State:
    """The model that most of the updates are measured from; of several, the latest."""
    counts = Counter(id(one.before) for one in arrivals)
    most = max(counts.values())
    started = [one for one in arrivals if counts[id(one.before)] == most]
    return max(started, key=lambda one: round if one.round is None else one.round).before
