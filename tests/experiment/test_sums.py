"""What a server holds that sees sums: the model that most started from, and everybody behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from torch import nn

from fedlab.clients import ClientConfig
from fedlab.experiment.sums import summed
from fedlab.runtime import SimulationGrid
from fedlab.strategies.learner import Arrival
from fedlab.tasks import FunctionalModel, State
from tests.runtime.apps import adding_app

DELTA = torch.arange(6, dtype=torch.float64)


@pytest.fixture
def model() -> FunctionalModel:
    SimulationGrid(adding_app(), 1)  # so that messages can be made
    return FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), (1, 1, 2))


def arrival(client: int, before: State, round: int | None, examples: int = 5, **more: Any) -> Arrival:
    message = Message(RecordDict({}), dst_node_id=client + 2, message_type="train")
    metrics = MetricRecord({"num-examples": examples})
    return Arrival(Message(RecordDict({"metrics": metrics}), reply_to=message), before, round=round, **more)


def state(model: FunctionalModel, value: float) -> State:
    return {name: torch.full_like(each, value) for name, each in model.state().items()}


def test_the_model_before_is_the_one_that_most_were_sent(model: FunctionalModel) -> None:
    """Versions 1, 2, 2 of clients 8, 3, 5: version 2; their records and batches together."""
    old, new = state(model, 1.0), state(model, 2.0)
    arrivals = [arrival(8, old, 2), arrival(5, new, 3, 7, epochs=2), arrival(3, new, 3, repeat=1)]
    seen = summed(model, ClientConfig(batch_size=4), arrivals, DELTA, state(model, 3.0), 5)
    assert all(torch.equal(seen.before[name], new[name]) for name in seen.before)
    assert (seen.round, seen.client, seen.examples, seen.config.batch_size) == (5, 3, 17, 12)
    parts = [(part.client, part.round, part.repeat, part.epochs) for part in seen.parts]
    assert parts == [(3, 3, 1, 0), (5, 3, 0, 2), (8, 2, 0, 0)]
    assert torch.equal(torch.cat([v.flatten() for v in seen.update.values()]), DELTA[:6].float())


def test_of_models_sent_equally_often_it_is_the_latest(model: FunctionalModel) -> None:
    old, new = state(model, 1.0), state(model, 2.0)
    seen = summed(model, ClientConfig(), [arrival(0, new, None), arrival(1, old, 1)], DELTA, old, 4)
    assert all(torch.equal(seen.before[name], new[name]) for name in seen.before)
    assert [part.round for part in seen.parts] == [4, 1]  # None is the round itself


def test_all_records_stay_all_records(model: FunctionalModel) -> None:
    """Batch size 0 is a client's every record; of several clients it is every record of each."""
    before = state(model, 1.0)
    seen = summed(model, ClientConfig(batch_size=0), [arrival(0, before, 1)] * 2, DELTA, before, 1)
    assert seen.config.batch_size == 0 and seen.examples == 10
