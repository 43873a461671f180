"""The guard: any mutation of a valid reply is turned away by its kind, valid replies pass untouched."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime._flower import enter_run, number
from fedlab.runtime.arrays import Stack, TensorArray, array_record, array_records
from fedlab.runtime.guard import REJECTED, GuardedGrid
from fedlab.runtime.guard import grid as guard_module
from tests.runtime.apps import adding_app, train_messages

BEFORE = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros(3, np.float32),
    "n": np.array(7, np.int64),
}


class Mailbox(SimulationGrid):
    """Hands out what the test puts in, whatever was asked."""

    def __init__(self) -> None:
        super().__init__(adding_app(), 5)
        self.replies: list[Message] = []

    def pull_until(self, message_ids: object, deadline: float) -> list[Message]:
        taken, self.replies = self.replies, []
        return taken

    def pull_messages(self, message_ids: object) -> list[Message]:
        return self.pull_until(message_ids, math.inf)


class Scene:
    """A guard around a mailbox, and what the guard said."""

    def __init__(self, **settings: object) -> None:
        self.box = Mailbox()
        self.told: list[tuple[str, str]] = []
        self.guard = GuardedGrid(self.box, rejected=self.hear, **settings)  # type: ignore[arg-type]

    def hear(self, message: Message | None, reply: Message, kind: str, reason: str) -> None:
        self.told.append((kind, reason))

    def ask(self, content: RecordDict | None = None, kind: str = "train", node: int = 2) -> Message:
        content = RecordDict({"arrays": arrays()}) if content is None else content
        message = Message(content, dst_node_id=node, message_type=kind)
        self.guard.push_messages([message])
        return message

    def answer(self, *replies: Message) -> list[Message]:
        self.box.replies = list(replies)
        return self.guard.pull_messages([])

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]


def arrays(change: float = 0.5, stacked: bool = False) -> ArrayRecord:
    """The model plus `change`, as plain arrays or as the second row of three in common stacks."""
    values = {k: v + np.asarray(change, v.dtype) for k, v in BEFORE.items()}
    if not stacked:
        record = ArrayRecord()
        for key, value in values.items():
            record[key] = Array(np.asarray(value))
        return record
    rows = {key: Stack(torch.from_numpy(np.stack([value] * 3))) for key, value in values.items()}
    return array_records(rows, 3)[1]


def valid(stacked: bool = False) -> RecordDict:
    return RecordDict(
        {
            "arrays": arrays(stacked=stacked),
            "metrics": MetricRecord({"num-examples": 3, "train-loss": 0.1}),
            "config": ConfigRecord({"note": "free"}),
        }
    )


def put(key: str, value: object, **fields: object) -> Callable[[RecordDict], None]:
    """Replace one array, plain or by a row of a stack, or some of its fields."""

    def mutate(content: RecordDict) -> None:
        record = content["arrays"]
        assert isinstance(record, ArrayRecord)
        if isinstance(value, torch.Tensor):
            record[key] = TensorArray(Stack(torch.stack([value, value])), 1)
        elif value is not None:
            record[key] = Array(np.asarray(value))
        for name, field in fields.items():
            setattr(record[key], name, field)

    return mutate


def metric(key: str, value: object) -> Callable[[RecordDict], None]:
    def mutate(content: RecordDict) -> None:
        content["metrics"][key] = value  # type: ignore[index, assignment]

    return mutate


def npy(array: np.ndarray, **header: object) -> bytes:
    """An npy file whose header lies."""
    stream = io.BytesIO()
    told = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue() + array.tobytes()


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def objects() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (3,)})
    return stream.getvalue() + pickle.dumps([Bomb()] * 3)


def at(value: float, dtype: str = "float32") -> np.ndarray:
    return np.array([0.0, value, 0.0], dtype)


def without(name: str) -> Callable[[RecordDict], None]:
    return lambda content: content.__delitem__(name)


def renamed(content: RecordDict) -> None:
    record = content["arrays"]
    record["v"] = record.pop("b")  # type: ignore[union-attr]


CATALOGUE: dict[str, tuple[str, Callable[[RecordDict], None]]] = {
    "a missing array": ("keys", lambda content: content["arrays"].__delitem__("b")),  # type: ignore[arg-type]
    "an extra array": ("keys", put("extra", np.zeros(3))),
    "a renamed array": ("keys", renamed),
    "broadcastable (1,)": ("shape", put("b", np.zeros(1, np.float32))),
    "broadcastable (1,), stacked": ("shape", put("b", torch.zeros(1))),
    "no dimension": ("shape", put("b", np.float32(0))),
    "no dimension, stacked": ("shape", put("b", torch.tensor(0.0))),
    "transposed": ("shape", put("w", BEFORE["w"].T.copy())),
    "transposed, stacked": ("shape", put("w", torch.zeros(3, 2))),
    "flattened": ("shape", put("w", BEFORE["w"].reshape(-1))),
    "an added axis": ("shape", put("b", np.zeros((1, 3), np.float32))),
    "a number more": ("shape", put("b", np.zeros(4, np.float32))),
    "no number": ("shape", put("b", np.zeros(0, np.float32))),
    "a shape that is a list": ("shape", put("b", None, shape=[3])),
    "float64": ("dtype", put("b", np.zeros(3))),
    "float64, stacked": ("dtype", put("b", torch.zeros(3, dtype=torch.float64))),
    "float16": ("dtype", put("b", np.zeros(3, np.float16))),
    "bfloat16, stacked": ("dtype", put("b", torch.zeros(3, dtype=torch.bfloat16))),
    "bfloat16, declared": ("dtype", put("b", None, dtype="bfloat16")),
    "integers": ("dtype", put("b", np.zeros(3, np.int64))),
    "complex": ("dtype", put("b", np.zeros(3, np.complex64))),
    "text": ("dtype", put("b", np.array(["a", "b", "c"]))),
    "big-endian": ("dtype", put("b", np.zeros(3, ">f4"))),
    "big-endian in the bytes": ("dtype", put("b", None, data=npy(np.zeros(3, ">f4")))),
    "a float for an integer": ("dtype", put("n", np.array(7.0, np.float32))),
    "an unknown serialisation": ("dtype", put("b", None, stype="pickle")),
    "a pickle": ("dtype", put("b", None, data=pickle.dumps(Bomb()))),
    "pickled objects in npy": ("dtype", put("b", None, data=objects())),
    "pickled objects, declared": ("dtype", put("b", None, data=objects(), dtype="object")),
    "a zip": ("dtype", put("b", None, data=b"PK\x03\x04" + b"0" * 64)),
    "no bytes": ("dtype", put("b", None, data=b"")),
    "a list for bytes": ("dtype", put("b", None, data=[0, 0, 0])),
    "a header of brackets": ("dtype", put("b", None, data=b"\x93NUMPY\x01\x00\x80\x25" + b"(" * 9600)),
    "doubles as floats": ("dtype", put("b", None, data=npy(np.zeros(3)))),
    "a huge declared shape": ("shape", put("b", None, shape=(2**40,))),
    "a huge shape in the bytes": ("shape", put("b", None, data=npy(np.zeros(3, np.float32), shape=(2**40,)))),
    "bytes that lack": ("shape", put("b", None, data=npy(np.zeros(2, np.float32), shape=(3,)))),
    "bytes too many": ("shape", put("b", None, data=npy(np.zeros(4, np.float32), shape=(3,)))),
    "NaN": ("not-finite", put("b", at(math.nan))),
    "NaN, stacked": ("not-finite", put("b", torch.tensor([0.0, math.nan, 0.0]))),
    "infinite": ("not-finite", put("b", at(math.inf))),
    "-infinite, stacked": ("not-finite", put("b", torch.tensor([-math.inf, 0.0, 0.0]))),
    "long": ("norm", put("b", at(1.1e6))),
    "long, stacked": ("norm", put("b", torch.tensor([0.0, -1.1e6, 0.0]))),
    "1e38": ("norm", put("b", at(1e38))),
    "1e38, stacked": ("norm", put("b", torch.full((3,), 1e38))),
    "no examples": ("num-examples", metric("num-examples", 0)),
    "negative": ("num-examples", metric("num-examples", -9)),
    "NaN examples": ("num-examples", metric("num-examples", math.nan)),
    "infinite examples": ("num-examples", metric("num-examples", math.inf)),
    "10**12 examples": ("num-examples", metric("num-examples", 10**12)),
    "10**5000 examples": ("num-examples", metric("num-examples", 10**5000)),
    "a list of examples": ("num-examples", metric("num-examples", [3])),
    "an empty list": ("num-examples", metric("num-examples", [])),
    "examples not told": ("num-examples", lambda content: content["metrics"].__delitem__("num-examples")),  # type: ignore[arg-type]
    "empty metrics": ("num-examples", lambda content: content.__setitem__("metrics", MetricRecord())),
    "examples as text": (
        "records",
        lambda content: (
            without("metrics")(content),
            content.__setitem__("m", ConfigRecord({"num-examples": "3"})),
        )[1],
    ),
    "no metrics": ("records", without("metrics")),
    "two MetricRecords": ("records", lambda content: content.__setitem__("more", MetricRecord())),
    "no arrays": ("records", without("arrays")),
    "empty arrays": ("records", lambda content: content.__setitem__("arrays", ArrayRecord())),
    "two ArrayRecords": ("records", lambda content: content.__setitem__("more", arrays())),
    "nothing": ("records", lambda content: content.clear()),
}


@given(name=st.sampled_from(sorted(CATALOGUE)), stacked=st.booleans(), crowd=st.integers(0, 3))
def test_any_mutation_is_rejected_by_its_kind_and_nobody_else(name: str, stacked: bool, crowd: int) -> None:
    """One client's flaw reaches neither the others' replies nor the run."""
    kind, mutate = CATALOGUE[name]
    scene = Scene()
    sent = RecordDict({"arrays": array_record({k: torch.from_numpy(v) for k, v in BEFORE.items()})})
    messages = [scene.ask(sent, node=2 + i) for i in range(crowd + 1)]
    content = valid(stacked)
    mutate(content)
    good = [Message(valid(stacked), reply_to=message) for message in messages[1:]]
    bad, *rest = scene.answer(Message(content, reply_to=messages[0]), *good)
    assert bad.has_error() and bad.error.code == REJECTED and bad.error.reason.startswith(f"{kind}: ")
    assert (
        bad.metadata.src_node_id == 2 and bad.metadata.reply_to_message_id == messages[0].metadata.message_id
    )
    assert scene.kinds() == [kind]
    assert [id(reply) for reply in rest] == [id(reply) for reply in good]


@given(
    change=st.floats(-1e5, 1e5, width=32),
    count=st.one_of(st.integers(1, 10**9), st.floats(1e-300, 1e9)),
    stacked=st.booleans(),
)
def test_valid_replies_pass_as_the_same_object(change: float, count: float, stacked: bool) -> None:
    scene = Scene()
    message = scene.ask()
    content = valid()
    content["arrays"] = arrays(change, stacked)
    content["metrics"]["num-examples"] = count  # type: ignore[index]
    reply = Message(content, reply_to=message)
    assert scene.answer(reply)[0] is reply and scene.told == []
    if stacked:
        assert all("_eager" not in array.__dict__ for array in content["arrays"].values()), "no bytes made"  # type: ignore[union-attr]


def test_denormals_and_negative_zero_are_numbers() -> None:
    scene = Scene()
    for value in (1e-45, -0.0):
        for changed in (at(value), torch.tensor([0.0, value, 0.0])):
            content = valid()
            put("b", changed)(content)
            reply = Message(content, reply_to=scene.ask())
            assert scene.answer(reply) == [reply]


@given(length=st.floats(0.5, 2.0), stacked=st.booleans())
def test_the_norm_is_that_of_the_change_of_all_arrays_together(length: float, stacked: bool) -> None:
    """(3, 4) · length, in two arrays, from a model that is far longer than the limit of 5."""
    far = np.full(2, 1e4)
    sent = RecordDict(
        {"arrays": array_record({"a": torch.from_numpy(far), "b": torch.zeros(2, dtype=torch.float64)})}
    )
    scene = Scene(max_norm=5.0)
    after = {"a": far + np.array([3 * length, 0.0]), "b": np.array([0.0, 4 * length])}
    record = ArrayRecord()
    for key, value in after.items():
        record[key] = TensorArray(Stack(torch.from_numpy(value)[None]), 0) if stacked else Array(value)
    exact = math.hypot(float(after["a"][0] - 1e4), 4 * length)
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})
    passed = scene.answer(Message(content, reply_to=scene.ask(sent)))
    assert passed[0].has_error() == (exact > 5.0)
    assert scene.kinds() == ["norm"] * (exact > 5.0)


def test_the_reasons_name_the_array_and_the_numbers() -> None:
    reasons = {}
    for name, (kind, mutate) in CATALOGUE.items():
        scene, content = Scene(), valid()
        mutate(content)
        scene.answer(Message(content, reply_to=scene.ask()))
        assert scene.kinds() == [kind], name
        reasons[name] = scene.told[0][1]
    assert reasons["a renamed array"] == "missing arrays: 'b'; unknown arrays: 'v'"
    assert reasons["broadcastable (1,)"] == "arrays['b'] has shape (1,); expected (3,)"
    assert reasons["float64"] == "arrays['b'] is float64; expected float32"
    assert reasons["doubles as floats"] == "arrays['b'] is declared float32, but its bytes are float64"
    assert reasons["NaN"] == "arrays['b']: 1 of 3 numbers are NaN or infinite"
    assert reasons["1e38"] == "the update's L2 norm is 1e+38; at most 1e+06 is allowed (max_norm)"
    assert reasons["negative"] == "num-examples is -9; expected one number > 0, at most 1,000,000,000"
    assert reasons["no arrays"] == "ArrayRecords none; expected 'arrays', not empty"
    assert max(map(len, reasons.values())) < 300


def test_a_type_that_the_server_has_sent_before_may_come_back() -> None:
    """flwr's FedAvg averages the integers of round 1 into floats; clients go on answering integers."""
    scene = Scene()
    integers, floats = np.array(4, np.int64), np.array(4.0, np.float64)
    for sent, answer, fine in (
        (floats, integers, False),
        (integers, integers, True),
        (floats, integers, True),
        (floats, floats, True),
        (floats, floats.astype(np.float32), False),
    ):
        message = scene.ask(RecordDict({"arrays": ArrayRecord({"n": Array(sent)})}))
        content = RecordDict(
            {"arrays": ArrayRecord({"n": Array(answer)}), "metrics": MetricRecord({"num-examples": 1})}
        )
        assert scene.answer(Message(content, reply_to=message))[0].has_error() is not fine


def test_opaque_bytes_may_have_any_length() -> None:
    """flwr's XGBoost strategies send trees as one-dimensional uint8 arrays, which grow."""
    scene = Scene(max_norm=1.0)
    for value, fine in (
        (np.zeros(0, np.uint8), True),
        (np.full(900, 255, np.uint8), True),
        (np.zeros((3, 3), np.uint8), False),
        (np.zeros(9, np.int8), False),
    ):
        message = scene.ask(RecordDict({"arrays": ArrayRecord([np.zeros(3, np.uint8)])}))
        content = RecordDict({"a": ArrayRecord([value]), "m": MetricRecord({"num-examples": 1})})
        assert scene.answer(Message(content, reply_to=message))[0].has_error() is not fine
    assert scene.kinds() == ["shape", "dtype"]
    lie = RecordDict({"a": ArrayRecord([np.zeros(3, np.uint8)]), "m": MetricRecord({"num-examples": 1})})
    lie["a"]["0"].data = npy(np.zeros(3, np.uint8), shape=(2**40,))  # type: ignore[index, union-attr]
    message = scene.ask(RecordDict({"arrays": ArrayRecord([np.zeros(3, np.uint8)])}))
    assert scene.answer(Message(lie, reply_to=message))[0].has_error()


def test_several_records_are_matched_by_name() -> None:
    """A strategy that sends a model and its control variates."""
    scene = Scene()
    sent = RecordDict({"model": arrays(), "control": ArrayRecord([np.zeros(2)])})
    metrics = MetricRecord({"num-examples": 1})
    for name, answer, kind in (
        ("control", ArrayRecord([np.ones(2)]), None),
        ("control", ArrayRecord([np.ones(3)]), "shape"),
        ("other", ArrayRecord([np.ones(2)]), "records"),
    ):
        reply = RecordDict({"model": arrays(), name: answer, "metrics": metrics})
        scene.answer(Message(reply, reply_to=scene.ask(sent)))
        assert scene.kinds()[-1:] == ([] if kind is None else [kind])


def test_a_message_without_arrays_can_be_answered_with_any_that_are_finite() -> None:
    scene = Scene(max_norm=1.0)
    for content in (RecordDict({"m": MetricRecord({"num-examples": 1})}), valid(), valid(stacked=True)):
        reply = Message(content, reply_to=scene.ask(RecordDict()))
        assert scene.answer(reply) == [reply]
    for key, kind in {
        "NaN": "not-finite",
        "NaN, stacked": "not-finite",
        "a huge shape in the bytes": "shape",
    }.items():
        content = valid()
        CATALOGUE[key][1](content)
        scene.answer(Message(content, reply_to=scene.ask(RecordDict())))
        assert scene.kinds()[-1] == kind


def test_evaluation_is_weighed_and_queries_are_free() -> None:
    scene = Scene()
    for kind, metrics, fine in (
        ("evaluate", {"num-examples": 5, "accuracy": 0.5}, True),
        ("evaluate.special", {"num-examples": 0}, False),
        ("evaluate", {"accuracy": 0.5}, False),
        ("query", {"anything": math.nan}, True),
        ("train.special", {"num-examples": 1}, False),
    ):
        message = scene.ask(kind=kind)
        reply = Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=message)
        assert scene.answer(reply)[0].has_error() is not fine
    assert scene.kinds() == ["num-examples", "num-examples", "records"]


def test_another_weight_or_none() -> None:
    content = valid()
    del content["metrics"]["num-examples"]  # type: ignore[arg-type]
    content["metrics"]["steps"] = 4  # type: ignore[index]
    for weight, fine in (("steps", True), (None, True), ("num-examples", False)):
        scene = Scene(weight=weight)
        assert scene.answer(Message(content, reply_to=scene.ask()))[0].has_error() is not fine


def test_failed_replies_pass_untouched() -> None:
    scene = Scene()
    reply = Message(Error(2, "it broke"), reply_to=scene.ask())
    assert scene.answer(reply) == [reply] and scene.told == []


def test_what_the_server_says_of_a_node_is_said_in_the_nodes_name() -> None:
    """Flower's SuperLink answers itself, as node 1, for nodes that it cannot reach."""
    scene = Scene()
    message = scene.ask(node=4)
    reply = Message(Error(5, "node unavailable"), reply_to=message)
    reply.metadata.__dict__.update(_src_node_id=1, _dst_node_id=1, _message_type="system")
    passed = scene.answer(reply)
    assert passed[0].metadata.src_node_id == 4 and passed[0].error.reason == "node unavailable"
    assert scene.told == []


def test_duplicate_late_and_foreign_replies_are_dropped() -> None:
    scene = Scene()
    message, cancelled = scene.ask(), scene.ask(node=3)
    reply = Message(valid(), reply_to=message)
    assert scene.answer(reply, reply) == [reply] and scene.kinds() == ["duplicate"]
    assert scene.answer(Message(valid(), reply_to=message)) == [] and scene.kinds() == ["duplicate"] * 2
    scene.guard.cancel([cancelled.metadata.message_id])
    assert scene.answer(Message(valid(), reply_to=cancelled)) == [] and scene.kinds()[-1] == "late"
    stranger = train_messages([2])[0]
    number(stranger, "m999")
    assert scene.answer(Message(valid(), reply_to=stranger)) == [] and scene.kinds()[-1] == "foreign"


@pytest.mark.parametrize(
    "forged", [{"_src_node_id": 3}, {"_message_type": "evaluate"}, {"_run_id": 9}, {"_src_node_id": 1}]
)
def test_nobody_answers_for_another(forged: dict[str, object]) -> None:
    """The message stays open: whoever was asked may still answer."""
    scene = Scene()
    message = scene.ask()
    reply = Message(valid(), reply_to=message)
    reply.metadata.__dict__.update(forged)
    assert scene.answer(reply) == [] and scene.kinds() == ["foreign"]
    honest = Message(valid(), reply_to=message)
    assert scene.answer(honest) == [honest]


def test_a_rejected_client_does_not_get_a_second_try() -> None:
    scene = Scene()
    message = scene.ask()
    bad = valid()
    CATALOGUE["NaN"][1](bad)
    assert scene.answer(Message(bad, reply_to=message))[0].has_error()
    assert scene.answer(Message(valid(), reply_to=message)) == []
    assert scene.kinds() == ["not-finite", "duplicate"]


def test_closed_messages_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "REMEMBERED", 2)
    scene = Scene()
    replies = [Message(valid(), reply_to=scene.ask()) for _ in range(3)]
    scene.answer(*replies)
    assert len(scene.guard._closed) == 2 and not scene.guard._open
    scene.answer(*replies)
    assert scene.kinds() == ["foreign", "duplicate", "duplicate"]


def around(
    scene: Scene, mutations: list[Callable[[RecordDict], None] | None], **options: object
) -> list[Message]:
    """One round of `send_and_receive`, in which client i mutates its valid reply."""
    messages = [
        Message(RecordDict({"arrays": arrays()}), dst_node_id=2 + i, message_type="train")
        for i in range(len(mutations))
    ]
    ids = iter(range(1000))

    def push(outgoing: list[Message]) -> list[str]:
        for message, mutate in zip(outgoing, mutations, strict=True):
            number(message, f"r{next(ids)}")
            content = valid()
            if mutate is not None:
                mutate(content)
            scene.box.replies.append(Message(content, reply_to=message))
        return [message.metadata.message_id for message in outgoing]

    scene.box.push_messages = push  # type: ignore[assignment, method-assign]
    return scene.guard.send_and_receive(messages, **options)  # type: ignore[arg-type]


def reasons(replies: list[Message]) -> Iterator[str | None]:
    return (reply.error.reason if reply.has_error() else None for reply in replies)


def test_too_few_valid_replies_are_none() -> None:
    nan = CATALOGUE["NaN"][1]
    scene = Scene(quorum=2)
    assert [r is None for r in reasons(around(scene, [nan, None, None]))] == [False, True, True]
    assert scene.kinds() == ["not-finite"]
    scene = Scene(quorum=3)
    first, *rest = reasons(around(scene, [nan, None, None]))
    assert first is not None and first.startswith("not-finite")
    assert rest == ["quorum: 2 of 3 valid replies"] * 2
    assert scene.kinds() == ["not-finite", "quorum", "quorum"]
    assert around(Scene(quorum=3), []) == [], "a strategy that asks nobody is not held to a quorum"


def test_enough_counts_only_valid_replies() -> None:
    nan = CATALOGUE["NaN"][1]
    replies = around(Scene(), [nan, None, None, None], enough=2)
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3, 4]


def test_replies_that_are_named_unlike_the_others_are_turned_away() -> None:
    """flwr's strategies end the run when two clients' metrics or records differ in name."""

    def misnamed(content: RecordDict) -> None:
        content["update"] = content.pop("arrays")

    for mutate, difference in (
        (metric("bonus", 1), "only here 'metrics.bonus'; missing none"),
        (without_metric, "only here none; missing 'metrics.train-loss'"),
        (metric("train-loss", [0.1, 0.2]), "only here 'metrics.train-loss[2]'; missing 'metrics.train-loss'"),
        (misnamed, "only here 'update'; missing 'arrays'"),
    ):
        for client in range(3):
            mutations: list[Callable[[RecordDict], None] | None] = [None] * 3
            mutations[client] = mutate
            scene = Scene()
            found = list(reasons(around(scene, mutations)))
            assert [r is None for r in found] == [i != client for i in range(3)]
            assert found[client] == f"keys: not named as in 2 other replies: {difference}"
    scene = Scene()
    all_alike = around(scene, [misnamed] * 3)
    assert not any(reasons(all_alike)) and scene.told == [], "what all agree on is theirs to choose"


def without_metric(content: RecordDict) -> None:
    del content["metrics"]["train-loss"]  # type: ignore[arg-type]


def test_settings_out_of_range_are_refused() -> None:
    enter_run()
    box = Mailbox()
    for max_norm in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="max_norm must be > 0"):
            GuardedGrid(box, max_norm=max_norm)
    with pytest.raises(UsageError, match="a quorum must be >= 1, got 0"):
        GuardedGrid(box, quorum=0)
