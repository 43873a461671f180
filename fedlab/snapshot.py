"""A snapshot: what something must remember to go on, as named tensors and plain JSON values.

Never pickle: a checkpoint can be read, compared and checked without running anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from fedlab.errors import PluginError


@dataclass
class Snapshot:
    """Tensors by name, and values that JSON can hold exactly.

    Floats survive JSON bit for bit (Python writes the shortest text that reads back the same).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, part: Snapshot) -> None:
        """Store another snapshot under `name`, which holds no slash."""
        self.tensors |= {f"{name}/{key}": value for key, value in part.tensors.items()}
        self.values[name] = part.values

    def get(self, name: str) -> Snapshot:
        """What `put` stored under `name`.

        Raises:
            KeyError: nothing was stored there.
        """
        prefix = f"{name}/"
        found = {key.removeprefix(prefix): v for key, v in self.tensors.items() if key.startswith(prefix)}
        return Snapshot(found, self.values[name])

    @classmethod
    def of_state(cls, owner: str, state: Mapping[str, Any]) -> Snapshot:
        """A flat table of tensors and JSON values, as plugins keep it; `owner` is named in errors.

        Raises:
            PluginError: something else stands in it.
        """
        tensors = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
        values = {name: value for name, value in state.items() if name not in tensors}
        for name, value in values.items():
            try:
                same = json.loads(json.dumps(value, allow_nan=False)) == value
            except (TypeError, ValueError):
                same = False
            if not same:
                raise PluginError(
                    f"{owner} remembers a {type(value).__name__} under {name!r}, which a checkpoint cannot"
                    " hold; expected tensors, finite numbers, text, and lists and tables of them."
                    " Convert it, or run with checkpoint.every = 0"
                )
        return cls(tensors, values)

    def state(self) -> dict[str, Any]:
        """The table that `of_state` took."""
        return {**self.values, **{name: value.clone() for name, value in self.tensors.items()}}

    @classmethod
    def of(cls, parts: Mapping[str, Snapshot]) -> Snapshot:
        """Several snapshots in one."""
        whole = cls()
        for name, part in parts.items():
            whole.put(name, part)
        return whole


@runtime_checkable
class Resumable(Protocol):
    """Something that can be put back to where it was."""

    def snapshot(self) -> Snapshot:
        """All that is needed to go on; later changes of the object do not reach it."""

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
