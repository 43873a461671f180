"""What can be wrong with a client's answer, judged by the message that it answers.

The model that was sent says which arrays to expect, of which shapes and types; nothing that a client
declares is believed before it was compared, and no array is allocated before its bytes are known to
be there. Arrays of one cohort are rows of common stacks (`fedlab.runtime.arrays`): those are looked
at together, so that a client costs microseconds.

Rules that are not obvious:

* An array may have any type in which the server itself ever sent it: flwr's FedAvg turns the integers
  of round 1 (a batch counter) into floats, which clients then go on answering with integers. Checkpoints
  do not hold these types: compositions always send the same ones, and Flower's strategies begin anew
  when a run is resumed. A strategy of one's own that resumes in the middle must not change types.
* One-dimensional uint8 arrays are opaque bytes (flwr's XGBoost strategies send trees like that): they
  may have any length, and have no norm.
* What fedlab's rules send beside their update (a control variate, a momentum) stands in a record of its own,
  `UPLINK`, as `slot/parameter`, each with the shape of that parameter; its L2 norm is bounded as that of the
  update is. What their server tells them stands in `SERVER`, and does not come back.
* The weight (`num-examples`) may be fractional, as Flower allows, but not zero: a reply that must not
  count is no reply. A client that lies about it within `LARGEST_WEIGHT` cannot be told from one that
  has so many records; robust aggregators are the answer to that.
* Some of fedlab's rules divide by a client's `steps`, which must be a number from 1 to the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from torch import Tensor

from fedlab.errors import UsageError
from fedlab.runtime.arrays import SERVER, UPLINK, Stack, tensor_of
from fedlab.runtime.guard.declared import NUMBERS, Flaw, Kind, declared, forged, is_view

LARGEST_WEIGHT = 1e9
"""Examples that one client may claim: beyond it, a claim is an attack or a mistake."""
STEPS = "steps"
"""The metric by which fedlab's clients say how many steps they took."""
Layout = frozenset[tuple[str, str]]
MARGIN = 1.01
"""Norms in float32 are off by less than that."""


class Expected(NamedTuple):
    """One array as it was sent, and the types in which it may come back."""

    array: Array
    shape: tuple[int, ...]
    types: frozenset[str]
    opaque: bool
    fitting: list[Stack | None]
    """The stack seen last whose rows fit."""


class Sent:
    """The arrays of one message: what every answer to it is measured against.

    Args:
        content: the message's; an empty ArrayRecord asks for nothing and counts as none.
        types: by record and array, the types in which the server sent it so far; this message's are added.
        uplinks: the arrays that come back in the record `UPLINK`, as `slot/parameter`; None where that name
            means nothing.

    Attributes:
        uplink: the same, as they must be; None where there is to be no such record.

    Raises:
        UsageError: an uplink is named after no array that is sent.
    """

    def __init__(
        self,
        content: RecordDict,
        types: dict[tuple[str, str], frozenset[str]],
        uplinks: Sequence[str] | None = None,
    ) -> None:
        self.records: dict[str, dict[str, Expected]] = {}
        for name, record in content.items():
            if name == SERVER and uplinks is not None:
                continue
            if isinstance(record, ArrayRecord) and record:
                expected = {}
                for key, array in record.items():
                    shape, dtype = declared(array)
                    known = types[name, key] = types.get((name, key), frozenset()) | ({dtype} & NUMBERS)
                    expected[key] = Expected(
                        array, shape, known, dtype == "uint8" and len(shape) == 1, [None]
                    )
                self.records[name] = expected
        self.uplink: dict[str, Expected] | None = None
        if uplinks and self.records:
            model = next(iter(self.records.values()))
            strange = [key for key in uplinks if key.partition("/")[2] not in model]
            if strange:
                raise UsageError(f"uplinks {_few(strange)}; expected slot/parameter of {_few(model)}")
            self.uplink = {
                key: model[key.partition("/")[2]]._replace(opaque=False, fitting=[None]) for key in uplinks
            }
        self._norm: float | None = None

    @property
    def norm(self) -> float:
        """L2 norm of everything that was sent."""
        if self._norm is None:
            arrays = [one.array for record in self.records.values() for one in record.values()]
            known = [tensor_of(array) for array in arrays if declared(array)[1] in NUMBERS]
            self._norm = math.hypot(*(_norm(value) for value in known if _measured(value)))
        return self._norm


def update_flaw(sent: Sent, content: RecordDict, *, max_norm: float) -> Flaw | None:
    """What is wrong with the arrays of an answer to `sent`, None if nothing is.

    Args:
        max_norm: the largest L2 norm of an update, the change of all floating-point arrays together.
    """
    records = {name: one for name, one in content.items() if isinstance(one, ArrayRecord)}
    if not sent.records:
        return _unasked(records)
    if sent.uplink is not None:
        flaw = _uplink_flaw(sent.uplink, records.pop(UPLINK, None), max_norm)
        if flaw is not None:
            return flaw
    if len(records) == 1 == len(sent.records):  # its name is a matter between the clients
        records = dict(zip(sent.records, records.values(), strict=True))
    if not 0 < len(records) <= len(sent.records):
        return _records_flaw(sent, records)
    square = 0.0
    for name, record in records.items():
        expected = sent.records.get(name)
        if not record or expected is None:
            return _records_flaw(sent, records)
        found = _square_or_flaw(name, expected, record)
        if isinstance(found, Flaw):
            return found
        square += found
    # |after - before| <= |after| + |before|: only what comes near the limit is looked at twice.
    if square < math.inf and MARGIN * (math.sqrt(square) + sent.norm) <= max_norm:
        return None
    return _values_flaw(records, sent.records, max_norm)


def values_flaw(content: RecordDict) -> Flaw | None:
    """What is wrong with the numbers of an answer, whatever its arrays are called: those that can be read."""
    for name, record in content.items():
        if not isinstance(record, ArrayRecord):
            continue
        read = {key: one for key, one in record.items() if is_view(one) or forged(name, key, one) is None}
        flaw = _values_flaw({name: ArrayRecord(read)}, {}, math.inf) if read else None
        if flaw is not None:
            return flaw
    return None


def _uplink_flaw(
    expected: Mapping[str, Expected], record: ArrayRecord | None, max_norm: float
) -> Flaw | None:
    """What is wrong with what a client sent beside its update."""
    if record is None:
        return Flaw("records", f"no ArrayRecord {UPLINK!r}; expected one of {_few(expected)}")
    found = _square_or_flaw(UPLINK, expected, record)
    if isinstance(found, Flaw):
        return found
    if found < math.inf and MARGIN * math.sqrt(found) <= max_norm:
        return None
    return _values_flaw({UPLINK: record}, {UPLINK: {}}, max_norm)


def _square_or_flaw(name: str, expected: Mapping[str, Expected], record: ArrayRecord) -> float | Flaw:
    """The square of the record's L2 norm, about, or what is wrong with it."""
    if len(record) != len(expected):
        return _keys_flaw(expected, record)
    square = 0.0
    for key, array in record.items():
        one, fields = expected.get(key), array.__dict__
        if one is None:
            return _keys_flaw(expected, record)
        if one.fitting[0] is fields.get("stack", one) and "_changed" not in fields:
            norm = fields["stack"].norms[fields["row"]]  # as most arrays do, it fits as the last one did
        else:
            found = _norm_or_flaw(name, key, one, array)
            if isinstance(found, Flaw):
                return found
            norm = found
        square += norm * norm
    return square


def weight_flaw(content: RecordDict, key: str) -> Flaw | None:
    """What is wrong with the one MetricRecord of an answer and the weight in it."""
    records = [one for one in content.values() if isinstance(one, MetricRecord)]
    if len(records) != 1:
        return Flaw("records", f"{len(records)} MetricRecords; expected exactly one")
    value = records[0].get(key)
    if value is None:
        return Flaw("num-examples", f"no {key!r} among its metrics ({_few(records[0])})")
    return _count_flaw("num-examples", key, value, 0.0)


def steps_flaw(content: RecordDict) -> Flaw | None:
    """What is wrong with the steps that a client says it took, if it says so: rules divide by them."""
    (record,) = content.metric_records.values()
    return _count_flaw("steps", STEPS, record[STEPS], 1.0) if STEPS in record else None


def _count_flaw(kind: Kind, key: str, value: object, least: float = 0.0) -> Flaw | None:
    """Whether it is no number above 0, less than `least`, or beyond the bound."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 < value <= LARGEST_WEIGHT and value >= least:
            return None
    told = isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**18)
    got = value if told else "a list" if isinstance(value, list) else "beyond all bounds"
    above = f">= {least:g}" if least else "> 0"
    return Flaw(kind, f"{key} is {got}; expected one number {above}, at most {LARGEST_WEIGHT:,.0f}")


def layout(content: RecordDict) -> Layout:
    """What must be the same in all answers of a round, or Flower's strategies end the run: the names of
    records and metrics, and the lengths of lists."""
    names = []
    for name, record in content.items():
        if isinstance(record, MetricRecord):
            for key, value in record.items():
                names.append((name, f"{key}[{len(value)}]" if isinstance(value, list) else key))
        elif isinstance(record, ArrayRecord):
            names.append((name, ""))
    return frozenset(names)


def differences(layout: Layout, usual: Layout) -> str:
    """What one answer has and others have not, and the other way round."""
    extra, missing = (
        _few(f"{record}.{key}" if key else record for record, key in one)
        for one in (layout - usual, usual - layout)
    )
    return f"only here {extra}; missing {missing}"


def _records_flaw(sent: Sent, records: Mapping[str, ArrayRecord]) -> Flaw:
    got = ", ".join(f"{name!r} ({len(one)} arrays)" for name, one in records.items()) or "none"
    return Flaw("records", f"ArrayRecords {got}; expected {', '.join(map(repr, sent.records))}, not empty")


def _keys_flaw(expected: Mapping[str, Expected], record: ArrayRecord) -> Flaw:
    missing, unknown = expected.keys() - record.keys(), record.keys() - expected.keys()
    return Flaw("keys", f"missing arrays: {_few(missing)}; unknown arrays: {_few(unknown)}")


def _unasked(records: Mapping[str, ArrayRecord]) -> Flaw | None:
    """An answer to a message without arrays may bring any, but they must be arrays of finite numbers."""
    for name, record in records.items():
        for key, array in record.items():
            flaw = None if is_view(array) else forged(name, key, array)
            if flaw is not None:
                return flaw
    return _values_flaw(records, {}, math.inf)


def _norm_or_flaw(name: str, key: str, one: Expected, array: Array) -> float | Flaw:
    """The array's L2 norm, about, or what is wrong with the array."""
    if is_view(array):
        stack: Stack = array.__dict__["stack"]
        if stack is not one.fitting[0]:  # all rows of a stack fit, or none
            shape, dtype = declared(array)
            flaw = _unfit(name, key, one, shape, dtype)
            if flaw is not None:
                return flaw
            one.fitting[0] = stack
        row: int = array.__dict__["row"]
        return stack.norms[row]
    flaw = _unfit(name, key, one, array.shape, array.dtype) or forged(name, key, array)
    if flaw is not None:
        return flaw
    value = tensor_of(array)
    return float(torch.linalg.vector_norm(value)) if _measured(value) else 0.0


def _unfit(name: str, key: str, one: Expected, shape: tuple[int, ...], dtype: str) -> Flaw | None:
    if shape != one.shape and not (one.opaque and len(shape) == 1):
        return Flaw("shape", f"{name}[{key!r}] has shape {str(shape)[:80]}; expected {one.shape}")
    if dtype not in one.types:
        return Flaw(
            "dtype", f"{name}[{key!r}] is {str(dtype)[:40]}; expected {' or '.join(sorted(one.types))}"
        )
    return None


def _values_flaw(
    records: Mapping[str, ArrayRecord], sent: Mapping[str, Mapping[str, Expected]], max_norm: float
) -> Flaw | None:
    """One answer's numbers, exactly: are they finite, and how long is the change of those that were sent?

    `sent` may lack arrays of a record: they count as sent as zeros.
    """
    norms = []
    for name, record in records.items():
        for key, array in record.items():
            value = tensor_of(array)
            if not _measured(value):
                continue
            broken = value.numel() - int(torch.isfinite(value).sum())
            if broken:
                where = f"{name}[{key!r}]"
                return Flaw("not-finite", f"{where}: {broken} of {value.numel()} numbers are NaN or infinite")
            if name in sent:
                before = sent[name].get(key)
                change = _wide(value) if before is None else _wide(value) - _wide(tensor_of(before.array))
                norms.append(_norm(change))
    norm = math.hypot(*norms)
    if not norm <= max_norm:
        what = "uplink" if UPLINK in records else "update"
        return Flaw(
            "norm", f"the {what}'s L2 norm is {norm:.4g}; at most {max_norm:.4g} is allowed (max_norm)"
        )
    return None


def _measured(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(_wide(value)))


def _few(names: Any) -> str:
    listed = sorted(str(name)[:60] for name in names)
    return (
        ", ".join(map(repr, listed[:5])) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
        or "none"
    )
