"""HyperFL: its local round by hand, its secrets on the wire, its extractor never stale."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from torch import nn

from fedlab import plugins, seeds
from fedlab.clients import ClientConfig, plan_batches
from fedlab.clients.app import CohortApp
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules.hyperfl import HyperFL
from fedlab.errors import FedlabError, UsageError
from fedlab.experiment.personal import accuracy_of, ask_clients
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensor_of, tensors
from fedlab.runtime.wrapped import WrappedGrid
from fedlab.strategies import SGD, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.strategies.composition import Composition
from fedlab.strategies.rounds import rounds
from fedlab.tasks import Dataset, FunctionalModel, Task, cross_entropy

CONFIG = ClientConfig(batch_size=4, local_epochs=3, learning_rate=0.05)
SIZES = [9, 6, 13, 4]


def network(data: Dataset) -> functools.partial[nn.Module]:
    return functools.partial(plugins.bind("models", {"name": "mlp", "width": [6]}), data.shape, data.classes)


def owners(sizes: Sequence[int] = SIZES) -> list[np.ndarray]:
    starts = np.cumsum([0, *sizes])
    return [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False)]


def made(data: Dataset, rule: HyperFL, sizes: Sequence[int] = SIZES) -> tuple[LocalTraining, list[ClientJob]]:
    torch.manual_seed(0)
    model = FunctionalModel(rule.network(network(data))().double(), data.shape)
    state = model.state()
    training = LocalTraining(model, cross_entropy, data, rule, CONFIG, seed=3)
    jobs = [
        ClientJob(
            client=c,
            round=2,
            state=state | rule.personal(state, torch.Generator().manual_seed(c)),
            memory={},
            records=ids,
            plan=plan_batches(len(ids), CONFIG, 3, 2, c),
        )
        for c, ids in enumerate(owners(sizes))
    ]
    return training, jobs


@pytest.mark.parametrize(
    ("mip", "clip", "head_epochs"), [(False, 50.0, 1), (True, 0.02, 1), (False, 0.02, 2)]
)
def test_a_round_is_the_papers_by_torch_autograd(
    small_data: Dataset, mip: bool, clip: float, head_epochs: int
) -> None:
    """Passes on the head by one torch.optim.SGD, then on φ and v by another, each clipped by
    clip_grad_norm_; the two optimizers know nothing of each other, and of other rounds."""
    told: dict[str, Any] = {"momentum": 0.5, "weight_decay": 0.01}
    rule = HyperFL(
        embedding=3, hidden=4, mip=mip, head_epochs=head_epochs, head_learning_rate=0.2, clip=clip, **told
    )
    training, jobs = made(small_data, rule)
    for job, result in zip(jobs, training(jobs), strict=True):
        net: Any = rule.network(network(small_data))().double()
        net.load_state_dict(job.state)
        head = torch.optim.SGD(net.head.parameters(), lr=0.2, **told)
        shared = list(net.hypernetwork.parameters())
        rest = torch.optim.SGD([*shared, net.embedding], lr=0.05, **told)
        epoch = -(-len(job.records) // 4)
        for step, picks in enumerate(job.plan):
            net.zero_grad()
            x, y = small_data.images(job.records[picks]).double(), small_data.labels(job.records[picks])
            cross_entropy(net(x), y).mean().backward()
            if step < head_epochs * epoch:
                head.step()
            else:
                nn.utils.clip_grad_norm_(shared, clip)
                nn.utils.clip_grad_norm_([net.embedding], clip)
                rest.step()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(result.state[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_a_stacked_client_learns_what_it_learns_alone(small_data: Dataset) -> None:
    training, jobs = made(small_data, HyperFL(embedding=3, hidden=4))
    for job, together in zip(jobs, training(jobs), strict=True):
        alone = training([job])[0]
        for name, value in alone.state.items():
            torch.testing.assert_close(value, together.state[name], rtol=1e-9, atol=1e-12)


def test_each_client_draws_its_own_embedding(small_data: Dataset) -> None:
    rule = HyperFL(embedding=3, hidden=4)
    state = FunctionalModel(rule.network(network(small_data))(), small_data.shape).state()
    one, other = (rule.personal(state, torch.Generator().manual_seed(c)) for c in (1, 2))
    assert set(one) == {"embedding", "head.weight", "head.bias"}
    assert not torch.equal(one["embedding"], other["embedding"])
    assert torch.equal(one["head.weight"], other["head.weight"])


class Wire(WrappedGrid):
    """Keeps all that passes."""

    def __init__(self, grid: SimulationGrid) -> None:
        super().__init__(grid)
        self.seen: list[Message] = []

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        self.seen += messages

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        found = list(replies)
        self.seen += found
        return found


def federation(data: Dataset, rule: HyperFL) -> tuple[Task, Wire, Composition, ArrayRecord]:
    task = Task(train=data, test=data, network=rule.network(network(data)))
    app = CohortApp(task, owners(), rule, CONFIG, seed=3)
    state = task.model(seeds.derive(3, "init")).state()
    shared = {name: value for name, value in state.items() if name.startswith("hypernetwork.")}
    strategy = Composition(Learner(as_aggregator(weighted_mean), SGD(), list(shared), 3), Synchronous(4, 3))
    return task, Wire(SimulationGrid(app, len(SIZES))), strategy, array_record(shared)


def numbers(message: Message) -> torch.Tensor:
    """All numbers in a message, whatever they are called."""
    records = message.content.array_records.values() if message.has_content() else ()
    found = [tensor_of(array).flatten().float() for record in records for array in record.values()]
    metrics = [
        torch.tensor([float(v)])
        for record in message.content.metric_records.values()
        for v in record.values()
    ]
    return torch.cat([*found, *metrics])


def test_neither_the_embedding_nor_the_head_is_ever_on_the_wire(small_data: Dataset) -> None:
    """All messages of two rounds: no array of such a name, and none of their numbers anywhere."""
    _, wire, strategy, arrays = federation(small_data, HyperFL(embedding=3, hidden=4))
    for _ in rounds(strategy, wire, arrays, last=2):
        assert isinstance(wire.grid, SimulationGrid)
        kept = [tensors(c.state["fedlab.personal"]) for c in wire.grid._contexts.values()]
        assert len(kept) == 4 and len({float(one["embedding"][0]) for one in kept}) == 4
        secrets = torch.cat([value.flatten() for one in kept for value in one.values()])
        for message in wire.seen:
            names = {name for record in message.content.array_records.values() for name in record}
            assert names and all(name.startswith("hypernetwork.") for name in names)
            assert not torch.isin(numbers(message), secrets[secrets != 0]).any()
    assert len(wire.seen) == 2 * 2 * 4


def test_the_extractor_is_generated_from_the_weights_that_are_evaluated(small_data: Dataset) -> None:
    """A client that has trained is asked about other weights: it answers for those, with its own v and head,
    and not for the extractor of its last forward pass."""
    task, wire, strategy, arrays = federation(small_data, HyperFL(embedding=3, hidden=4))
    (after,) = [round.arrays for round in rounds(strategy, wire, arrays, last=1)]
    model, grid = task.model(seeds.derive(3, "init")), wire.grid
    assert isinstance(grid, SimulationGrid)
    for shared in (tensors(after), {n: 3.0 * v for n, v in tensors(after).items()}):
        content = RecordDict(
            {"arrays": array_record(shared), "config": ConfigRecord({"server-round": 1, "on": "test"})}
        )
        (reply,) = grid.consult([Message(content, dst_node_id=2, message_type=MessageType.EVALUATE)])
        state = shared | tensors(grid._contexts[0].state["fedlab.personal"])
        with torch.no_grad():
            outputs, _ = model(state, small_data.images(np.arange(len(small_data))), training=False)
        mix = np.bincount(small_data.y[owners()[0]], minlength=small_data.classes)
        labels = torch.from_numpy(small_data.y)
        counts = np.bincount(small_data.y, minlength=small_data.classes)
        weight = torch.from_numpy((mix / mix.sum() / counts)[small_data.y])
        loss = float(cross_entropy(outputs, labels).double() @ weight)
        assert reply.content["metrics"]["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_deployed_grid_and_a_simulated_one_hear_the_same_of_each_client(small_data: Dataset) -> None:
    """Behind another Grid the same messages take the usual way; who fails there has no figure."""
    _, wire, strategy, arrays = federation(small_data, HyperFL(embedding=3, hidden=4))
    (after,) = [round.arrays for round in rounds(strategy, wire, arrays, last=1)]
    assert isinstance(wire.grid, SimulationGrid)
    simulated = ask_clients(wire.grid, strategy, tensors(after), 1, SIZES, None)
    assert wire.grid.now == 1.0
    assert ask_clients(wire, strategy, tensors(after), 1, SIZES, None) == simulated
    assert wire.grid.now == 2.0
    assert [row["records"] for row in simulated] == SIZES
    broken = {name: value[..., :1] for name, value in tensors(after).items()}
    rows = ask_clients(wire.grid, strategy, broken, 1, SIZES, None)
    assert {row["accuracy"] for row in rows} == {None}
    with pytest.raises(FedlabError, match="no client could test its model"):
        accuracy_of(rows)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"momentum": 0.5}, "momentum and a weight_decay of its own"),
        ({"weight_decay": 0.1}, "momentum and a weight_decay of its own"),
        ({"local_epochs": 1}, "local_epochs of at least 2"),
        ({"local_steps": 7}, "local_steps = 7, of which"),
    ],
)
def test_a_configuration_that_it_cannot_follow_is_refused(config: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        HyperFL().check(ClientConfig(**({"local_epochs": 3} | config)))
    HyperFL().check(ClientConfig(local_epochs=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"embedding": 0},
        {"hidden": 0},
        {"head_epochs": 0},
        {"head_learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"clip": 0.0},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        HyperFL(**wrong)
