"""Clients of several tasks answer each as if it were the only one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from fedlab.clients.rules.scaffold import Scaffold
from fedlab.clients.several import TASK, SeveralApp, joined, part_of
from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import SERVER, array_record, tensors
from fedlab.strategies import SGD, Learner, as_aggregator
from fedlab.strategies.aggregators import mean
from tests.strategies.several_scene import NETWORKS, client_app, same, task

ORDER = ["deep", "linear", "linear", "deep", "deep", "linear"]


def message(label: str, node: int, *, kind: str = MessageType.TRAIN, named: bool = True) -> Message:
    told = ConfigRecord({"server-round": 1})
    if named:
        told[TASK] = label
    arrays = array_record(task(NETWORKS[label]).model(1).state())
    return Message(RecordDict({"arrays": arrays, "config": told}), dst_node_id=node, message_type=kind)


def answers(app: object, labels: Sequence[str], *, kind: str = MessageType.TRAIN) -> list[Message]:
    grid = SimulationGrid(app, 6, chunk=6)  # type: ignore[arg-type]
    nodes = grid.get_node_ids()
    return grid.consult([message(label, nodes[row], kind=kind) for row, label in enumerate(labels)])


@pytest.mark.parametrize("sizes", [{"deep": 6, "linear": 6}, {"deep": 2, "linear": 1}])
def test_a_mixed_cohort_is_answered_in_order_as_each_task_alone_would(sizes: dict[str, int]) -> None:
    app = SeveralApp({label: client_app(label) for label in NETWORKS}, sizes)
    found = answers(app, ORDER)
    for label in NETWORKS:
        alone = answers(client_app(label), [label] * 6)
        for row, (own, other) in enumerate(zip(found, alone, strict=True)):
            if ORDER[row] == label:
                one, two = tensors(own.content["arrays"]), tensors(other.content["arrays"])  # type: ignore[arg-type]
                assert same(one, two) and own.metadata.src_node_id == other.metadata.src_node_id


def test_clients_test_the_model_of_the_task_that_they_are_asked_about() -> None:
    app = SeveralApp({label: client_app(label) for label in NETWORKS}, {"deep": 6, "linear": 6})
    found = answers(app, ORDER, kind=MessageType.EVALUATE)
    alone = {label: answers(client_app(label), [label] * 6, kind=MessageType.EVALUATE) for label in NETWORKS}
    for row, label in enumerate(ORDER):
        metrics = found[row].content["metrics"], alone[label][row].content["metrics"]
        assert dict(metrics[0]) == dict(metrics[1])


def test_what_a_client_remembers_of_one_task_is_not_mistaken_for_that_of_another() -> None:
    """SCAFFOLD's control variates: trained on both tasks, a client remembers of each what it would alone."""

    def context() -> Context:
        return Context(1, 1, {"partition-id": 0, "num-partitions": 6}, RecordDict(), {})

    def ask(app: object, label: str, here: Context) -> None:
        told, state = message(label, 1), task(NETWORKS[label]).model(1).state()
        learner = Learner(as_aggregator(mean), SGD(), list(state), 0, server=Scaffold().server)
        told.content[SERVER] = learner.records(array_record(state), state)[SERVER]
        app.run_cohort([told], [here])  # type: ignore[attr-defined]

    SimulationGrid(client_app("deep"), 1)  # messages are made inside of a run
    both, here = (
        SeveralApp({one: client_app(one, Scaffold()) for one in NETWORKS}, {"deep": 6, "linear": 6}),
        context(),
    )
    for label in ("deep", "linear"):
        ask(both, label, here)
    for label in NETWORKS:
        alone = context()
        ask(client_app(label, Scaffold()), label, alone)
        assert len(alone.state) > 0
        for name, record in alone.state.items():
            assert here.state[f"{label}/{name}"] == record


@pytest.mark.parametrize("named", [True, False])
def test_a_message_about_no_task_that_is_known_is_refused(named: bool) -> None:
    app = SeveralApp({"deep": client_app("deep")}, {"deep": 6})
    grid = SimulationGrid(app, 1)
    (reply,) = grid.consult([message("linear", grid.get_node_ids()[0], named=named)])
    assert reply.has_error() and 'expected "task" in its config, one of deep' in str(reply.error.reason)
    with pytest.raises(UsageError):
        app.run_cohort([message("linear", 1, named=named)], [])


def test_names_are_joined_and_parted_again() -> None:
    states = {"a": {"w": torch.ones(1)}, "ab": {"w": torch.zeros(2), "b": torch.ones(2)}}
    whole = joined(states)
    assert list(whole) == ["a/w", "ab/w", "ab/b"]
    assert all(same(part_of(whole, label), states[label]) for label in states)
    assert same(part_of(whole, ""), whole)
