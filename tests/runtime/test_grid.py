"""SimulationGrid: order, virtual time, copies, failures, snapshots; no sleeping, no polling."""

import heapq
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.runtime import SimulatedFleet, SimulationGrid, TappedGrid, UniformFleet, client_of, flights
from fedlab.runtime.devices import Errand, Visit
from fedlab.runtime.executors import Chunk, Reply
from fedlab.runtime.times import HalfNormal
from fedlab.snapshot import Snapshot
from tests.runtime.apps import adding_app, train_messages, weights
from tests.runtime.grid_programs import (
    FLEET,
    PROGRAMS,
    Oracle,
    Player,
    Program,
    Recording,
    Seen,
    listening_app,
)


def test_each_client_gets_its_own_copy_and_keeps_its_state() -> None:
    grid = SimulationGrid(adding_app(), 4)
    for call in (1, 2):
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [weights(r) for r in replies] == [[c + 1.0, c + 1.0] for c in range(4)]
        assert [r.content["metrics"]["calls"] for r in replies] == [call] * 4
    assert grid.now == 2.0


def test_the_servers_own_record_stays_untouched() -> None:
    grid = SimulationGrid(adding_app(), 2)
    messages = train_messages(grid.get_node_ids())
    grid.send_and_receive(messages)
    assert messages[0].content["arrays"]["w"].numpy().tolist() == [0.0, 0.0]


def test_a_failing_client_is_a_failed_reply_with_its_traceback() -> None:
    grid = SimulationGrid(adding_app(fail_on=1), 3)
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
    assert [r.has_error() for r in replies] == [False, True, False]
    assert "this client is broken" in replies[1].error.reason and "Traceback" in replies[1].error.reason


@dataclass(frozen=True)
class Staggered:
    """Device d takes d + 1 virtual seconds."""

    count: int

    def visit(self, errand: Errand, seed: int) -> Visit:
        return Visit(errand.at, errand.device + 1.0)


def test_pull_moves_the_clock_to_the_next_awaited_arrival() -> None:
    grid = SimulationGrid(adding_app(), Staggered(3))
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    assert grid.now == 0.0
    seen = []
    while arrived := grid.pull_messages(ids):
        seen.append((grid.now, [client_of(r.metadata.src_node_id) for r in arrived]))
    assert seen == [(1.0, [0]), (2.0, [1]), (3.0, [2])]
    assert grid.pull_messages(ids) == [] and grid.now == 3.0


def test_timeout_means_virtual_seconds() -> None:
    grid = SimulationGrid(adding_app(), Staggered(4))
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()), timeout=2.5)
    assert len(replies) == 2 and grid.now == 2.5


def test_a_busy_device_takes_its_messages_one_after_the_other() -> None:
    grid = SimulationGrid(adding_app(), 2)
    node = grid.get_node_ids()[0]
    ids = grid.push_messages(train_messages([node, node, node]))
    seen = []
    while arrived := grid.pull_messages(ids):
        seen.append((grid.now, [r.content["metrics"]["calls"] for r in arrived]))
    assert seen == [(1.0, [1]), (2.0, [2]), (3.0, [3])]


def test_the_same_chunk_size_gives_the_same_replies_whatever_the_number_of_messages() -> None:
    for chunk in (1, 2, 3, 16):
        grid = SimulationGrid(adding_app(), 5, chunk=chunk)
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [weights(r)[0] for r in replies] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_million_devices_are_a_range() -> None:
    grid = SimulationGrid(adding_app(), 1_000_000)
    assert isinstance(grid.get_node_ids(), range) and len(grid.get_node_ids()) == 1_000_000
    assert len(grid.send_and_receive(train_messages([grid.get_node_ids()[999_999]]))) == 1


def test_bad_input_is_refused_by_name() -> None:
    grid = SimulationGrid(adding_app(), 2)
    with pytest.raises(UsageError, match="no node 99; expected 2 to 3"):
        grid.push_messages(train_messages([99]))
    with pytest.raises(UsageError, match="chunk must be >= 1, got 0"):
        SimulationGrid(adding_app(), 2, chunk=0)
    for count, seconds in ((0, 1.0), (2, -1.0), (2, float("nan"))):
        with pytest.raises(UsageError):
            UniformFleet(count, seconds)


def test_the_tap_shows_every_reply_beside_its_message() -> None:
    seen: list[tuple[Message, Message]] = []
    grid = TappedGrid(SimulationGrid(adding_app(fail_on=0), 3), lambda m, r: seen.append((m, r)))
    direct = grid.send_and_receive(train_messages(grid.get_node_ids()))
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    pulled = grid.pull_messages(ids)
    assert [r for _, r in seen] == direct + pulled
    assert all(r.metadata.reply_to_message_id == m.metadata.message_id for m, r in seen)


def counting_app() -> ClientApp:
    """A cohort app that says how often it has seen a client; forgets those with an odd number."""

    class Counting(ClientApp):
        def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
            replies = []
            for message, context in zip(messages, contexts, strict=True):
                calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
                if int(context.node_config["partition-id"]) % 2 == 0:
                    context.state["calls"] = MetricRecord({"n": calls})
                replies.append(
                    Message(RecordDict({"metrics": MetricRecord({"calls": calls})}), reply_to=message)
                )
            return replies

    return Counting()


def run(program: Program, player: Player | Oracle) -> Seen:
    return [player.step(step) for step in program]


@given(PROGRAMS, st.integers(1, 4))
@settings(max_examples=200)
def test_late_execution_cannot_be_told_from_work_in_time(program: Program, chunk: int) -> None:
    grid = SimulationGrid(listening_app(), FLEET, chunk=chunk)
    assert run(program, Player(grid)) == run(program, Oracle())


@given(PROGRAMS)
def test_times_and_replies_do_not_depend_on_the_executor(program: Program) -> None:
    backwards = Recording()
    one = run(program, Player(SimulationGrid(listening_app(), FLEET, chunk=2)))
    other = run(program, Player(SimulationGrid(listening_app(), FLEET, backwards, chunk=2)))
    assert one == other
    assert all(len(chunk) <= 2 for chunk in backwards.chunks)


@given(PROGRAMS, st.integers(0, 12))
@settings(max_examples=120)
def test_a_grid_that_is_put_back_goes_on_as_if_nothing_had_happened(program: Program, cut: int) -> None:
    executor, again = Recording(), Recording()
    first = Player(SimulationGrid(listening_app(), FLEET, executor, chunk=2))
    run(program[:cut], first)
    kept = first.grid.snapshot()
    values = json.loads(json.dumps(kept.values, allow_nan=False))
    tensors = {name: value.clone() for name, value in kept.tensors.items()}
    before = len(executor.chunks)
    rest = run(program[cut:], first)

    second = SimulationGrid(listening_app(), FLEET, again, chunk=2)
    run([("push", [0, 3]), ("pull", None)], Player(second))  # whatever it did before is forgotten
    second.restore(Snapshot(tensors, values))
    again.chunks.clear()
    assert run(program[cut:], Player(second, first.sent[: count(program[:cut])])) == rest
    assert again.chunks == executor.chunks[before:]
    assert timeless(second.snapshot().values) == timeless(first.grid.snapshot().values)


def count(program: Program) -> int:
    return sum(len(step[1]) for step in program if step[0] == "push")


def timeless(values: Any) -> str:
    """The snapshot without the moments at which messages were made, which are wall clock."""
    found = json.loads(json.dumps(values))
    for flight in found["flights"]:
        for message in (flight["message"], flight["reply"]):
            if message is not None:
                message["metadata"][6:8] = []
                message["error"] = message.get("error", [0, ""])[1].strip().splitlines()[-1:]
    return json.dumps(found)


def test_a_client_that_is_stopped_has_done_nothing() -> None:
    """Devices take 1 and 2 s and are computed together; the second one is stopped at 1 s."""
    grid = SimulationGrid(adding_app(), Staggered(2))
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()), enough=1)
    assert [client_of(r.metadata.src_node_id) for r in replies] == [0] and grid.now == 1.0
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
    assert [r.content["metrics"]["calls"] for r in replies] == [2, 1]
    assert grid.now == 3.0, "and its device was free at once"


def test_what_a_device_had_finished_counts_though_nobody_waits_for_it_any_more() -> None:
    grid = SimulationGrid(adding_app(), Staggered(2))
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    assert grid.pull_until([], 1.5) == []
    grid.cancel(ids)
    again = SimulationGrid(adding_app(), Staggered(2))
    again.restore(grid.snapshot())
    for one in (grid, again):
        assert one.pull_messages(ids) == []
        replies = one.send_and_receive(train_messages(one.get_node_ids()))
        assert [r.content["metrics"]["calls"] for r in replies] == [2, 1]
        assert one.now == 3.5


def test_what_arrives_together_is_pulled_together() -> None:
    grid = SimulationGrid(adding_app(), 10)
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    for some in (ids[7:1:-3], ids):
        replies = grid.pull_messages(some)
        assert [r.metadata.reply_to_message_id for r in replies] == [i for i in ids if i in some]
        ids = [i for i in ids if i not in some]


def test_enough_counts_good_replies_and_drop_outs_do_not_hold_a_round_up() -> None:
    """Device 0 answers after 1 s with an error; 1 and 2 are the two good ones, after 2 and 3 s."""
    grid = SimulationGrid(adding_app(fail_on=0), Staggered(5))
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()), enough=2)
    assert [r.has_error() for r in replies] == [True, False, False] and grid.now == 3.0

    silent = SimulationGrid(adding_app(), SimulatedFleet(200, time=HalfNormal(), dropout=0.4))
    replies = silent.send_and_receive(train_messages(silent.get_node_ids()))
    lost = [r for r in replies if r.has_error()]
    assert len(replies) == 200 and 40 < len(lost) < 120  # 80 +- 5 * 7
    assert all(re.fullmatch(r"dropped out after [\d.e-]+ virtual seconds", r.error.reason) for r in lost)
    assert silent._contexts.keys().isdisjoint(client_of(r.metadata.src_node_id) for r in lost)


def test_work_of_several_versions_is_run_in_one_cohort() -> None:
    executor = Recording()
    grid = SimulationGrid(adding_app(), Staggered(4), executor)
    nodes = grid.get_node_ids()
    first = grid.push_messages(train_messages([nodes[3], nodes[0]]))
    grid.push_messages(train_messages([nodes[1], nodes[2]]))
    assert [weights(r)[0] for r in grid.pull_messages(first)] == [1.0]
    assert executor.chunks == [["m1", "m2", "m3", "m4"]]


def test_a_pull_that_is_interrupted_can_be_made_again() -> None:
    class Interrupted(Recording):
        def run(self, chunks: Sequence[Chunk]) -> list[list[Reply]]:
            replies = super().run(chunks)
            if len(self.chunks) == 2:
                raise KeyboardInterrupt
            return replies

    grid = SimulationGrid(adding_app(), Staggered(3), Interrupted(), chunk=2)
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    with pytest.raises(KeyboardInterrupt):
        grid.pull_messages(ids)
    again = SimulationGrid(adding_app(), Staggered(3), chunk=2)
    again.restore(grid.snapshot())
    for one in (grid, again):
        replies = [reply for _ in ids for reply in one.pull_messages(ids)]
        assert [weights(r)[0] for r in replies] == [1.0, 2.0, 3.0] and one.now == 3.0
        assert [r.content["metrics"]["calls"] for r in replies] == [1, 1, 1]


def test_a_million_devices_cost_nothing_until_they_are_used() -> None:
    asked: list[int] = []

    def examples(device: int) -> int:
        asked.append(device)
        return 10

    fleet = SimulatedFleet(1_000_000, time=HalfNormal(), per_example=0.1, examples=examples)
    grid = SimulationGrid(counting_app(), fleet)
    cohort = grid.get_node_ids()[::10_000]  # 100 clients, all even
    for call in (1, 2):
        replies = grid.send_and_receive(train_messages(list(cohort)))
        assert {r.content["metrics"]["calls"] for r in replies} == {call}
    assert asked == [client_of(node) for node in cohort] * 2
    assert sorted(grid._contexts) == [client_of(node) for node in cohort]
    grid.send_and_receive(train_messages([node + 1 for node in cohort]))
    assert len(grid._contexts) == 100, "clients that remember nothing leave nothing behind"
    assert len(grid.snapshot().values["contexts"]) == 100
    assert not list(grid._flights) and not grid._flights._queues and not grid._flights._arrivals[200:]


def test_waiting_for_thousands_one_by_one_looks_at_each_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 replies at 1,000 different times: a scan of all that is awaited would look 500,000 times."""
    looks = 0

    class Heap:
        heapify = staticmethod(heapq.heapify)

        @staticmethod
        def heappush(heap: list[Any], entry: Any) -> None:
            nonlocal looks
            looks += 1
            heapq.heappush(heap, entry)

        @staticmethod
        def heappop(heap: list[Any]) -> Any:
            nonlocal looks
            looks += 1
            return heapq.heappop(heap)

    monkeypatch.setattr(flights, "heapq", Heap)
    grid = SimulationGrid(counting_app(), Staggered(1000))
    assert len(grid.send_and_receive(train_messages(grid.get_node_ids()))) == 1000 and grid.now == 1000.0
    assert looks < 6000


def test_a_message_that_is_sent_twice_is_two_messages() -> None:
    grid = SimulationGrid(adding_app(), 1)
    message = train_messages(grid.get_node_ids())[0]
    ids = grid.push_messages([message, message])
    assert ids == ["m1", "m2"]
    replies = [*grid.pull_messages(ids), *grid.pull_messages(ids)]
    assert [(r.metadata.reply_to_message_id, r.metadata.message_id) for r in replies] == [
        ("m1", "r1"),
        ("m2", "r2"),
    ]
    assert grid.pull_messages(ids) == [], "a reply is pulled once"


def test_what_the_server_changes_after_sending_is_not_sent() -> None:
    """Its records may be the same from round to round, as in Flower's own strategies."""
    grid = SimulationGrid(adding_app(), Staggered(2))
    messages = train_messages(grid.get_node_ids())
    ids = grid.push_messages(messages)
    arrays = messages[0].content["arrays"]
    arrays["w"].data = Array(np.full(2, 5.0)).data
    grid.cancel(ids[:1])
    ids += grid.push_messages(messages[:1])
    arrays["w"] = Array(np.full(2, 9.0))
    replies = [reply for _ in ids for reply in grid.pull_messages(ids)]
    assert {r.metadata.reply_to_message_id: weights(r)[0] for r in replies} == {"m2": 2.0, "m3": 6.0}


def test_what_is_no_reply_is_a_failed_reply() -> None:
    class Odd(ClientApp):
        def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Any]:
            for context in contexts:
                context.state["calls"] = MetricRecord({"n": 1})
            return [None, messages[1], Message(RecordDict(), reply_to=messages[0])]

    grid = SimulationGrid(Odd(), 3)
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
    assert [r.metadata.reply_to_message_id for r in replies] == ["m1", "m2", "m3"]
    reasons = [str(r.error.reason) for r in replies]
    assert "returned a NoneType" in reasons[0]
    assert "answers another one" in reasons[1] and "answers another one" in reasons[2]
    assert not grid._contexts, "a client that failed remembers nothing of it"


def test_every_kind_of_message_arrives_and_time_passes_where_nothing_does() -> None:
    app = ClientApp()
    for decorator in (app.train("mine"), app.query(), app.evaluate()):

        @decorator
        def echo(message: Message, context: Context) -> Message:
            kind = MetricRecord({"size": len(message.metadata.message_type)})
            return Message(RecordDict({"kind": kind}), reply_to=message)

    grid = SimulationGrid(app, 3)
    kinds = ("train.mine", "query", "evaluate")
    pairs = zip(grid.get_node_ids(), kinds, strict=True)
    replies = grid.send_and_receive([grid.create_message(RecordDict(), k, n, "7") for n, k in pairs])
    assert [r.content["kind"]["size"] for r in replies] == [10, 5, 8]
    assert [r.metadata.group_id for r in replies] == ["7"] * 3
    assert grid.pull_until([], 5.0) == [] and grid.now == 5.0
    assert grid.pull_until(["m1"], 4.0) == [] and grid.now == 5.0, "time never runs backwards"


def test_nothing_is_sent_if_one_message_is_wrong() -> None:
    grid = SimulationGrid(adding_app(), 2)
    good = train_messages(grid.get_node_ids())
    with pytest.raises(UsageError, match="no node 9"):
        grid.push_messages([*good, *train_messages([9])])
    with pytest.raises(UsageError, match="without content"):
        own = Message(RecordDict(), grid.get_node_ids()[0], "train")
        answered = Message(Error(1), reply_to=own)
        answered.metadata.dst_node_id = grid.get_node_ids()[0]
        grid.push_messages([*good, answered])
    assert not list(grid._flights) and grid.push_messages(good) == ["m1", "m2"]


@pytest.mark.parametrize("devices", ["ten", 2.5, None])
def test_what_is_neither_a_number_of_devices_nor_a_fleet_is_refused(devices: Any) -> None:
    with pytest.raises(UsageError, match=f"devices = {devices!r}; expected how many there are, or a Fleet"):
        SimulationGrid(ClientApp(), devices)
