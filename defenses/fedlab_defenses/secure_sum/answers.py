"""What clients say at each stage; a stranger's bytes, of which nothing is believed unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from flwr.app import Array, ConfigRecord, Message

from fedlab.audit.grids import forged, tensors
from fedlab.errors import DataError
from fedlab_defenses.secure_sum.keys import PUBLIC
from fedlab_defenses.secure_sum.plan import RECORD, Plan
from fedlab_defenses.secure_sum.shares import SHARE
from fedlab_defenses.secure_sum.vectors import Integers, Vectors, sizes


@dataclass(frozen=True)
class Masked:
    """One client's masked vector, what its figures are called, the cap of its weight, and what is public."""

    vectors: Vectors
    names: tuple[str, ...]
    cap: int
    told: dict[str, float]


def keys(said: ConfigRecord) -> tuple[bytes, bytes]:
    """Two public keys: for letters, and for masks."""
    return _bytes(said["letters"], PUBLIC), _bytes(said["masks"], PUBLIC)


def sealed(said: ConfigRecord, nodes: Sequence[int]) -> dict[int, bytes]:
    """A letter for each of `nodes`."""
    letters = [_bytes(one) for one in cast(list[object], said["sealed"])]
    return dict(zip(nodes, letters, strict=True))


def told(said: ConfigRecord) -> dict[int, bytes]:
    """Shares, by the node that they are of."""
    nodes, shares = cast(list[int], said["of"]), cast(list[object], said["shares"])
    return {int(node): _bytes(share, SHARE) for node, share in zip(nodes, shares, strict=True)}


def masked(plan: Plan, message: Message, reply: Message) -> Masked:
    """A masked vector of the length that the model asks for."""
    said, record = reply.content.config_records[RECORD], reply.content.array_records["masked"]
    names = tuple(str(name) for name in cast(list[str], said["names"]))
    floats, whole = sizes(tensors(message.content.array_records["arrays"]), len(names))
    vectors = Vectors(
        _integers(record["values"], floats, plan.quantiser.bits), _integers(record["figures"], whole, 64)
    )
    public = {name: float(str(value)) for name, value in reply.content.metric_records["told"].items()}
    return Masked(vectors, names, int(str(said["cap"])), public)


def _bytes(value: object, length: int | None = None) -> bytes:
    if not isinstance(value, bytes) or length not in (None, len(value)):
        wanted = "bytes" if length is None else f"{length} bytes"
        raise DataError(f"a {type(value).__name__}; expected {wanted}")
    return value


def _integers(array: Array, count: int, bits: int) -> Integers:
    flaw = forged("masked", "vector", array)
    if flaw is not None or array.shape != (count,) or array.dtype != f"uint{bits}":
        wrong = flaw.reason if flaw else f"{array.dtype} of shape {array.shape}"
        raise DataError(f"{wrong[:200]}; expected uint{bits} of shape {(count,)}")
    return cast(Integers, array.numpy())
