"""Delivery in one process: who may edit what, what a failure leaves behind, what stops the run; shipping."""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.errors import BackendError
from fedlab.runtime import SimulationGrid
from fedlab.runtime._flower import enter_run, new_context
from fedlab.runtime.arrays import Stack, TensorArray, array_record, array_records
from fedlab.runtime.copies import same_state
from fedlab.runtime.executors import Delivery, Reply, execute
from fedlab.runtime.memory import as_backend_error, out_of_memory
from fedlab.runtime.ray import shipping
from fedlab.runtime.ray.breaker import Breaker
from fedlab.runtime.ray.pool import _failure
from fedlab.runtime.ray.shipping import VERSIONS, Receiver, Sender, returned, to_return
from tests.runtime.apps import train_messages

Client = Callable[[Message, Context], None]


@pytest.fixture(autouse=True)
def in_a_run() -> None:
    enter_run()


def app_of(client: Client) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client(message, context)
        return Message(RecordDict({"seen": MetricRecord({"n": 1})}), reply_to=message)

    return app


def chunk_of(content: RecordDict, clients: int = 2) -> list[Delivery]:
    """Messages that share their content."""
    nodes = range(2, 2 + clients)
    return [Delivery(Message(content, dst_node_id=n, message_type="train"), new_context(n, 9)) for n in nodes]


def full_content() -> RecordDict:
    """A plain array and a row of a stack, a list, a number."""
    arrays = array_record({"row": torch.arange(3.0)})
    arrays["plain"] = Array(np.zeros(3))
    return RecordDict(
        {
            "arrays": arrays,
            "config": ConfigRecord({"round": 1, "steps": [1, 2]}),
            "metrics": MetricRecord({"loss": 0.5, "history": [0.25, 0.5]}),
        }
    )


def pristine(content: RecordDict) -> bool:
    fresh = full_content()
    return (
        list(content) == list(fresh)
        and all(
            content["arrays"][n].numpy().tolist() == fresh["arrays"][n].numpy().tolist()
            for n in fresh["arrays"]
        )
        and dict(content["config"]) == dict(fresh["config"])
        and dict(content["metrics"]) == dict(fresh["metrics"])
    )


def replace_array(message: Message, context: Context) -> None:
    message.content["arrays"]["plain"] = Array(np.ones(3))


def write_data(message: Message, context: Context) -> None:
    message.content["arrays"]["row"].data = Array(np.ones(3)).data
    message.content["arrays"]["plain"].data = Array(np.ones(3)).data


def write_into_numpy(message: Message, context: Context) -> None:
    for array in message.content["arrays"].values():
        array.numpy()[:] = 7.0


def write_list(message: Message, context: Context) -> None:
    message.content["config"]["steps"].append(3)
    message.content["metrics"]["history"][0] = 9.0


def write_value(message: Message, context: Context) -> None:
    message.content["config"]["round"] = 2
    message.content["metrics"]["loss"] = 9.0


def add_and_remove(message: Message, context: Context) -> None:
    message.content["mine"] = MetricRecord({"a": 1})
    del message.content["config"]
    del message.content["arrays"]["plain"]


def new_content(message: Message, context: Context) -> None:
    message.content = RecordDict()


def write_metadata(message: Message, context: Context) -> None:
    message.metadata.group_id = "mine"


EDITS = (
    replace_array,
    write_data,
    write_into_numpy,
    write_list,
    write_value,
    add_and_remove,
    new_content,
    write_metadata,
)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_reaches_neither_the_neighbour_nor_the_server(edit: Client) -> None:
    seen: list[bool] = []

    def client(message: Message, context: Context) -> None:
        seen.append(pristine(message.content) and message.metadata.group_id == "")
        edit(message, context)

    content = full_content()
    chunk = chunk_of(content, 3)
    replies = execute(app_of(client), chunk)
    assert not any(reply.message.has_error() for reply in replies)
    assert seen == [True] * 3 and pristine(content)
    assert all(delivery.message.content is content for delivery in chunk)


def test_a_delivery_shares_the_model_instead_of_copying_it() -> None:
    stacks: list[Any] = []

    def client(message: Message, context: Context) -> None:
        stacks.append(
            (message.content["arrays"]["row"].tensor.data_ptr(), message.content["arrays"]["plain"].data)
        )

    content = full_content()
    execute(app_of(client), chunk_of(content))
    row, plain = content["arrays"]["row"], content["arrays"]["plain"]
    assert all(pointer == row.tensor.data_ptr() and data is plain.data for pointer, data in stacks)


class Cohort(ClientApp):
    """Answers a chunk; remembers a call; client 2 (of 0, 1, 2) raises after it has written."""

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        for context in contexts:
            calls = context.state["calls"]["n"] if "calls" in context.state else 0
            context.state["calls"] = MetricRecord({"n": calls + 1})
        if any(context.node_config["partition-id"] == 2 for context in contexts):
            raise RuntimeError("client 2 is broken")
        return [Message(RecordDict(), reply_to=message) for message in messages]


def test_a_client_that_raises_leaves_its_context_as_it_was() -> None:
    def client(message: Message, context: Context) -> None:
        context.state["calls"] = MetricRecord({"n": 1})
        context.run_config["mine"] = 1
        if context.node_config["partition-id"] == 1:
            raise RuntimeError("too late")

    for app, failed in ((app_of(client), 1), (Cohort(), 2)):
        chunk = chunk_of(RecordDict(), 3)
        replies = execute(app, chunk)
        assert [reply.message.has_error() for reply in replies] == [i == failed for i in range(3)]
        assert all(dict(d.context.state) == {} and d.context.run_config == {} for d in chunk)
        assert replies[failed].context is chunk[failed].context
        counts = [r.context.state["calls"]["n"] for i, r in enumerate(replies) if i != failed]
        assert counts == [1, 1], "the chunk's first try, which was lost, does not count"


def test_what_is_no_reply_and_who_leaves_the_process_are_failures() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise SystemExit(3)
        return "hello"  # type: ignore[return-value]

    reasons = [reply.message.error.reason for reply in execute(app, chunk_of(RecordDict()))]
    assert "SystemExit: 3" in reasons[0] and "returned str; expected a Message" in reasons[1]


ERRORS: list[tuple[BaseException, bool]] = [
    (MemoryError(), True),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
]


@pytest.mark.parametrize(("error", "is_one"), ERRORS, ids=lambda value: type(value).__name__)
def test_out_of_memory_stops_the_run_other_errors_do_not(error: BaseException, is_one: bool) -> None:
    assert out_of_memory(error) is is_one

    def client(message: Message, context: Context) -> None:
        raise error

    if is_one:
        with pytest.raises(BackendError, match=r"out of memory in a chunk of 1 client: .*runtime\.workers"):
            execute(app_of(client), chunk_of(RecordDict()))
    else:
        assert execute(app_of(client), chunk_of(RecordDict()))[0].message.has_error()


def test_torch_and_numpy_say_it_as_expected() -> None:
    """The phrases come from the libraries: ask them."""
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**58)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**58)
    assert out_of_memory(torchs.value) and out_of_memory(numpys.value)
    assert "lower runtime.chunk, or runtime.workers" in str(as_backend_error(torchs.value, 50))


def test_rays_memory_guard_is_recognised() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    assert out_of_memory(exceptions.OutOfMemoryError("killed due to memory pressure"))
    assert not out_of_memory(exceptions.WorkerCrashedError())
    told = str(_failure(exceptions.OutOfMemoryError("killed due to memory pressure")))
    assert "memory pressure" in told and "lower runtime.chunk or runtime.workers" in told


def test_a_backend_error_of_an_app_passes_through() -> None:
    def client(message: Message, context: Context) -> None:
        raise BackendError("no such device")

    with pytest.raises(BackendError, match="no such device"):
        execute(app_of(client), chunk_of(RecordDict()))


class Store:
    """Ray's object store, in a dictionary; counts what passes."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.fetched: list[int] = []

    def put(self, record: ArrayRecord) -> int:
        self.kept[len(self.kept)] = pickle.dumps(record)
        return len(self.kept) - 1

    def fetch(self, reference: int) -> ArrayRecord:
        self.fetched.append(reference)
        record: ArrayRecord = pickle.loads(self.kept[reference])
        return record


def model(value: float) -> ArrayRecord:
    record = array_record({"w": torch.full((40_000,), value)})
    record["plain"] = Array(np.full(3, value))
    return record


def sent(
    store: Store, receiver: Receiver, sender: Sender, records: Sequence[ArrayRecord]
) -> list[ArrayRecord]:
    contents = [RecordDict({"arrays": record}) for record in records]
    chunk = [delivery for content in contents for delivery in chunk_of(content, 1)]
    return [delivery.message.content["arrays"] for delivery in receiver.unpack(sender.pack(chunk))]


def test_a_record_travels_once_and_is_shared_on_the_other_side() -> None:
    store = Store()
    sender, receiver = Sender(store.put), Receiver(store.fetch)
    one, two = model(1.0), model(2.0)
    for _ in range(3):
        got = sent(store, receiver, sender, [one, two, one])
        assert [r["w"].numpy()[0] for r in got] == [1.0, 2.0, 1.0]
        assert got[0] is got[2]
    assert len(store.kept) == 2 and store.fetched == [0, 1]


def test_an_edited_record_is_another_version() -> None:
    store = Store()
    sender, receiver = Sender(store.put), Receiver(store.fetch)
    record = model(1.0)
    edits: list[Callable[[], None]] = [
        lambda: None,
        lambda: record.__setitem__("plain", Array(np.full(3, 5.0))),
        lambda: setattr(record["plain"], "data", Array(np.full(3, 6.0)).data),
        lambda: setattr(record["w"], "data", Array(np.full(40_000, 7.0, dtype=np.float32)).data),
        lambda: record.__setitem__("more", Array(np.zeros(1))),
    ]
    for edit in edits:
        edit()
        got = sent(store, receiver, sender, [record])[0]
        assert {n: a.numpy().tolist() for n, a in got.items()} == {
            n: a.numpy().tolist() for n, a in record.items()
        }
    assert len(store.kept) == len(edits)


def test_old_versions_are_forgotten_on_both_sides_and_come_again_when_needed() -> None:
    store = Store()
    sender, receiver = Sender(store.put), Receiver(store.fetch)
    records = [model(float(i)) for i in range(VERSIONS + 1)]
    for record in [*records, records[0]]:
        assert sent(store, receiver, sender, [record])[0]["w"].numpy()[0] == record["w"].numpy()[0]
    assert len(store.kept) == VERSIONS + 2
    assert len(sender._models) == len(receiver._models) == VERSIONS


def test_large_versions_are_forgotten_sooner_but_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 160,012 bytes are over a limit of 200,000 bytes; one alone over a limit of 1 stays."""
    for limit, kept in ((400_000, 2), (200_000, 1), (1, 1)):
        monkeypatch.setattr(shipping, "VERSION_BYTES", limit)
        store = Store()
        sender, receiver = Sender(store.put), Receiver(store.fetch)
        for value in range(4):
            sent(store, receiver, sender, [model(float(value))])
        assert len(sender._models) == len(receiver._models) == kept


def test_small_records_travel_with_their_chunk() -> None:
    store = Store()
    small = array_record({"w": torch.ones(10)})
    got = sent(store, Receiver(store.fetch), Sender(store.put), [small, small])
    assert got[0]["w"].numpy().tolist() == [1.0] * 10 and got[0] is got[1] and not store.kept


def test_of_a_clients_state_only_its_own_row_travels_and_only_if_it_changed() -> None:
    stack = Stack(torch.arange(500 * 1000.0).reshape(500, 1000))
    chunk = chunk_of(RecordDict(), 2)
    for delivery, record in zip(chunk, array_records({"m": stack}, 2), strict=True):
        delivery.context.state["memory"] = record
    store = Store()
    parcel = Sender(store.put).pack(chunk)
    assert sum(len(buffer.raw()) for buffer in parcel.buffers) == 2 * 4000, "two rows of the 500"
    there = Receiver(store.fetch).unpack(parcel)
    replies = execute(Cohort(), there)
    answers = to_return(there, [Reply(replies[0].message, there[0].context), replies[1]])
    assert answers[0][1] is None and answers[1][1] is not None
    back = returned(chunk, answers)
    assert back[0].context is chunk[0].context
    assert back[1].context.state["calls"]["n"] == 1
    row = back[1].context.state["memory"]["m"]
    assert isinstance(row, TensorArray) and row.tensor.equal(stack.values[1])
    assert row.__dict__["stack"].values.shape == (1, 1000), "it keeps nobody else's row alive"


def test_states_are_compared_by_what_they_hold() -> None:
    def state(n: int) -> RecordDict:
        return RecordDict({"arrays": array_record({"w": torch.ones(2)}), "n": MetricRecord({"n": n})})

    one = state(1)
    same = RecordDict({"arrays": one["arrays"], "n": MetricRecord({"n": 1})})
    assert same_state(one, same)
    assert not same_state(one, state(1)), "other tensors, even if they are equal"
    assert not same_state(one, RecordDict({"arrays": one["arrays"], "n": MetricRecord({"n": 2})}))
    assert not same_state(one, RecordDict({"arrays": one["arrays"]}))


def breaks(deaths: Sequence[tuple[bool, set[int]]]) -> int | None:
    """At which of the (new generation, suspects) the breaker trips."""
    breaker = Breaker()
    for index, (fresh, suspects) in enumerate(deaths):
        try:
            breaker.death(float("inf") if fresh else -1.0, float("-inf"), frozenset(suspects), "killed")
        except BackendError:
            return index
    return None


def test_the_breaker_tells_a_bad_client_a_lost_node_and_a_dead_end_apart() -> None:
    assert breaks([(True, {1, 2})] * 20) is None, "clients 1 and 2 may be to blame: they are tried alone"
    assert breaks([(True, {1}), *[(False, {c}) for c in range(2, 20)]]) is None, "a node with 19 workers"
    assert breaks([(True, {c}) for c in range(20)]) == 6, "seven generations, seven clients"
    assert breaks([(True, set())] * 20) == 6, "workers that die before they get any work"


def test_the_breaker_does_not_wait_long_for_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations that take six seconds to come up and die at once: 6 + 6 + 6 + 6 > 15, at the fourth."""
    now = [100.0]
    monkeypatch.setattr("fedlab.runtime.ray.breaker.time.monotonic", lambda: now[0])
    quick, long = Breaker(), Breaker()
    for client in range(4):
        now[0] += 60.0
        long.death(now[0] - 56.0, now[0] - 50.0, frozenset([client]), "killed after 50 seconds of work")
        if client < 3:
            quick.death(now[0] - 6.0, now[0], frozenset([client]), "killed")
    with pytest.raises(BackendError, match=r"4 died one after the other .* killed"):
        quick.death(now[0] - 6.0, now[0], frozenset([3]), "killed")


def drawing_app() -> ClientApp:
    """Answers with what the three global generators give."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return Message(RecordDict({"metrics": MetricRecord({"drawn": drawn})}), reply_to=message)

    return app


def test_what_a_foreign_client_draws_comes_from_the_seed() -> None:
    """Each message has numbers of its own, the same in every run; the server's generators stand still."""

    def drawn(seed: int) -> list[object]:
        grid = SimulationGrid(drawing_app(), 3, seed=seed)
        messages = train_messages([*grid.get_node_ids(), grid.get_node_ids()[0]])
        return [reply.content["metrics"]["drawn"] for reply in grid.send_and_receive(messages)]

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = drawn(7)
    assert first == drawn(7) and len({str(one) for one in first + drawn(8)}) == 8
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_a_foreign_client_gets_what_torch_gives_for_its_seed() -> None:
    """Seeded without torch.manual_seed, which is slow; the numbers must be its own."""
    delivery = dataclasses.replace(chunk_of(full_content(), 1)[0], seed=2**63 + 5)
    [reply] = execute(drawing_app(), [delivery])
    torch.manual_seed(2**63 + 5)
    assert reply.message.content["metrics"]["drawn"][2] == float(torch.rand(()))
