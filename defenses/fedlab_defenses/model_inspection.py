"""A client that looks at what it is sent before it trains on it: a Flower mod.

`fedlab_defenses.tampering` says which signs of a malicious server it looks for. In any Flower app::

    app = ClientApp(mods=[inspect_model()])

A client that finds one answers with an error and trains on nothing, so that nothing of its data leaves it.
Without the agreed model it can only judge weights. Told what was agreed (`expected`), it refuses any other
structure too: an imprint block in front of the network is then seen whatever its weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from fedlab.audit.defense import Defense
from fedlab_defenses.tampering import Finding, signs

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, Context, Message
    from flwr.clientapp.typing import Mod

SUSPICIOUS = 451
"""Code of the error with which a client refuses (HTTP's "unavailable for legal reasons")."""


def inspect_model(expected: Mapping[str, Sequence[int]] | None = None) -> Mod:
    """A mod that refuses to train on suspicious parameters.

    Args:
        expected: shapes of the agreed model by name; None compares no structure.
    """
    shapes = None if expected is None else {name: tuple(shape) for name, shape in expected.items()}

    def mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        if not message.metadata.message_type.startswith("train"):
            return call_next(message, context)
        from flwr.app import Error
        from flwr.app import Message as Reply

        found = [
            finding
            for record in message.content.array_records.values()
            for finding in (*_foreign(record, shapes), *signs(_state(record)))
        ]
        if not found:
            return call_next(message, context)
        reason = "refused to train: " + "; ".join(map(str, found))
        return Reply(Error(code=SUSPICIOUS, reason=reason), reply_to=message)

    return mod


def _state(record: ArrayRecord) -> dict[str, torch.Tensor]:
    # Copied: what came over the wire may not be written to, of which torch would warn.
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in record.items()}


def _foreign(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]] | None) -> list[Finding]:
    if shapes is None:
        return []
    sent = {name: tuple(array.shape) for name, array in record.items()}
    names = sorted(name for name in sent.keys() | shapes.keys() if sent.get(name) != shapes.get(name))
    return [
        Finding(
            name, "another model", f"sent {sent.get(name, 'nothing')}, agreed {shapes.get(name, 'nothing')}"
        )
        for name in names
    ]


class ModelInspection(Defense):
    """Clients refuse models that show signs of a malicious server.

    A refusal is an error of that client in that round; honest models pass unchanged, bit by bit.
    """

    paper: ClassVar[str] = (
        "signs of Fowl et al., ICLR 2022; Boenisch et al., EuroS&P 2023; Wen et al., ICML 2022"
    )
    adaptive = ("imprint",)

    def mods(self) -> Sequence[Mod]:
        return (inspect_model(),)
