"""pFedHN: the server's step is autograd through the hypernetwork; its model is the hypernetwork."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.errors import DataError, UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies import SGD, Adam, Synchronous, as_aggregator
from fedlab.strategies.aggregators import median, weighted_mean
from fedlab.strategies.hypernetwork import PFedHN, pfedhn, pfedhn_pc
from fedlab.strategies.rounds import rounds
from fedlab.tasks import State
from fedlab.tasks.hypernetwork import HyperNetwork

START = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, -1.0]), "seen": torch.tensor([4.0])}
PARTS: dict[str, Any] = {"aggregator": as_aggregator(weighted_mean), "optimizer": SGD(), "seed": 1}


def trained(theta: State, client: int) -> State:
    """What client `client` makes of its model: nearer to its own number, which it adds to the buffer."""
    return {n: v + 0.1 * (client - v) if n != "seen" else v + client for n, v in theta.items()}


def clients() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        (arrays,) = message.content.array_records.values()
        number = int(context.node_config["partition-id"])
        metrics = MetricRecord({"num-examples": 1 + number})
        answer = {"arrays": array_record(trained(tensors(arrays), number)), "metrics": metrics}
        return Message(RecordDict(answer), reply_to=message)

    return app


def strategy(cohort: int, **options: Any) -> PFedHN:
    return PFedHN(Synchronous(cohort, 1), ["w", "b"], embedding=3, hidden=[5], **options)


def course(made: PFedHN, count: int, first: int = 1, arrays: ArrayRecord | None = None) -> list[ArrayRecord]:
    grid = SimulationGrid(clients(), 4)
    start = array_record(START) if arrays is None else arrays
    return [round.arrays for round in rounds(made, grid, start, first=first, last=first + count - 1)]


def taken_apart(arrays: ArrayRecord, **options: Any) -> tuple[HyperNetwork, torch.nn.Parameter]:
    """φ as a module and V as a parameter."""
    state = tensors(arrays)
    net = HyperNetwork({n: START[n] for n in ("w", "b")}, 3, [5], **options)
    own = {n.removeprefix("hypernetwork/"): v.clone() for n, v in state.items() if n != "seen"}
    embeddings = torch.nn.Parameter(own.pop("embeddings"))
    net.load_state_dict(own)
    return net, embeddings


@pytest.mark.parametrize("mip", [False, True])
def test_one_client_per_round_is_the_papers_loop_by_autograd(mip: bool) -> None:
    """Shamsian et al., Algorithm 1: backward of <θ_i, Δθ_i> through h, clipped, torch's own SGD over all
    of φ and V. Four rounds after the first, each from where the last ended."""
    told = {"learning_rate": 0.3, "momentum": 0.9, "weight_decay": 0.01, "clip": 2.0}
    made = strategy(1, mip=mip, **told)
    seen = course(made, 5)
    fresh = strategy(1, mip=mip, **told)
    (first,) = course(fresh, 1)
    net, embeddings = taken_apart(array_record(fresh._model), mip=mip)  # before the first step
    everything = [*net.parameters(), embeddings]
    optimizer = torch.optim.SGD(everything, lr=0.3, momentum=0.9, weight_decay=0.01)
    for number in range(1, 6):
        (node,) = made.schedule.sample(range(2, 6), number)
        theta = net(embeddings[node - 2])
        change = {n: (v - trained({n: v}, node - 2)[n]).detach() for n, v in theta.items()}
        optimizer.zero_grad()
        torch.stack([(theta[n] * change[n]).sum() for n in theta]).sum().backward()
        torch.nn.utils.clip_grad_norm_(everything, 2.0)
        optimizer.step()
        after = tensors(seen[number - 1])
        torch.testing.assert_close(after["hypernetwork/embeddings"], embeddings.detach())
        for name, value in net.named_parameters():
            torch.testing.assert_close(after[f"hypernetwork/{name}"], value.detach())
    torch.testing.assert_close(tensors(first)["hypernetwork/embeddings"].shape, embeddings.shape)


def test_of_several_clients_the_hypernetwork_takes_the_mean_and_each_embedding_its_own() -> None:
    """All four in one round, learning rate 1, nothing else: the change is minus the gradient."""
    made = strategy(4, learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip=1e9)
    (after,) = course(made, 1)
    net, embeddings = taken_apart(array_record(made._model))
    theta = net(embeddings)
    change = {
        n: torch.stack([v[i] - trained({n: v[i]}, i)[n] for i in range(4)]).detach() for n, v in theta.items()
    }
    torch.stack([(theta[n] * change[n]).sum() for n in theta]).sum().backward()
    found = tensors(after)
    assert embeddings.grad is not None
    torch.testing.assert_close(found["hypernetwork/embeddings"], (embeddings - embeddings.grad).detach())
    for name, value in net.named_parameters():
        assert value.grad is not None
        expected = (value - value.grad / 4).detach()
        torch.testing.assert_close(found[f"hypernetwork/{name}"], expected)


def test_buffers_are_everybodys_and_averaged_by_records() -> None:
    """4 + (1·0 + 2·1 + 3·2 + 4·3)/10 = 6."""
    (after,) = course(strategy(4), 1)
    assert tensors(after)["seen"].tolist() == [pytest.approx(6.0)]


def test_each_client_gets_a_model_of_its_own_and_models_are_what_it_would_get() -> None:
    made, grid = strategy(4), SimulationGrid(clients(), 4)
    arrays = course(made, 2)[-1]
    sent = [
        tensors(message.content["arrays"])
        for message in made.configure_train(3, arrays, ConfigRecord(), grid)
    ]
    models = [tensors(record) for record in made.models(arrays, grid.get_node_ids())]
    assert not torch.equal(sent[0]["w"], sent[1]["w"])
    for one, other in zip(sent, models, strict=True):
        assert one.keys() == other.keys() == START.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name])


def test_it_learns_each_clients_own_number() -> None:
    made = strategy(4, learning_rate=0.2, weight_decay=0.0)
    arrays = course(made, 150)[-1]
    models = [tensors(record)["w"] for record in made.models(arrays, range(2, 6))]
    for client, w in enumerate(models):
        assert float((w - client).abs().max()) < 0.2


def test_a_restored_strategy_goes_on_with_the_same_bits() -> None:
    whole = course(strategy(2), 5)[-1]
    made = strategy(2)
    arrays = course(made, 3)[-1]
    other = strategy(2)
    other.restore(made.snapshot())
    resumed = course(other, 2, 4, array_record({n: v.clone() for n, v in tensors(arrays).items()}))[-1]
    for name, value in tensors(whole).items():
        assert torch.equal(value, tensors(resumed)[name])
    with pytest.raises(DataError, match="another algorithm"):
        other.restore(Snapshot())


def test_a_round_without_a_quorum_leaves_the_model_alone() -> None:
    made = strategy(2)
    made.quorum = 3
    (after,) = course(made, 1)
    assert set(after) == set(START)
    assert "the quorum needs 3" in made.why_skipped


def test_what_it_would_pass_over_is_refused() -> None:
    common: dict[str, Any] = {**PARTS, "cohort": 1, "parameters": ["w"]}
    for changed in ({"optimizer": Adam()}, {"aggregator": as_aggregator(median)}):
        with pytest.raises(UsageError, match=r"set strategy\.options"):
            pfedhn(**(common | changed))
    with pytest.raises(UsageError, match=r'strategy\.local_rule = "personal-head"'):
        pfedhn_pc(**common)
    assert isinstance(pfedhn_pc(**common, personal={"head.weight"}), PFedHN)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"clip": 0.0}, {"embedding": 0}],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PFedHN(Synchronous(1, 1), ["w"], **wrong)  # type: ignore[arg-type]
