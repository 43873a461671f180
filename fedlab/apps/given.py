"""What its author says about an app: the table `[tool.fedlab.audit]` of its pyproject.toml, or an `Adapter`.

Most apps need neither: what counts is recorded while they run. What is said here goes before what was
recorded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from fedlab.apps.folder import AppFolder
from fedlab.errors import UsageError, did_you_mean

TABLE = "[tool.fedlab.audit]"
Count = Annotated[int, Field(ge=1, lt=10**9)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Adapter(BaseModel):
    """Facts about an app that an audit cannot find; None is left to the audit.

    Attributes:
        network: makes the network that clients train; with weights of any kind.
        names: the state-dict keys of the arrays in a message, in its order.
        input_shape: (C, H, W) of a record; what the network takes is these numbers in another shape.
        pixel_low, pixel_high: what black and white are to the network, once or per channel.
        loss: "cross-entropy" where clients compute it in a way that was not recognised.
        learning_rate, momentum, weight_decay: of the clients' plain SGD.
        batch_size, local_steps, local_epochs: of the clients; for deployments, where no client is recorded.
        mode: how clients run their network.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_kebab,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    network: Callable[[], nn.Module] | None = None
    names: tuple[str, ...] | None = None
    input_shape: tuple[Count, Count, Count] | None = None
    pixel_low: Numbers | None = None
    pixel_high: Numbers | None = None
    loss: Literal["cross-entropy"] | None = None
    learning_rate: Rate | None = None
    momentum: Rate | None = None
    weight_decay: Rate | None = None
    batch_size: Count | None = None
    local_steps: Count | None = None
    local_epochs: Count | None = None
    mode: Literal["train", "eval"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _once_for_all_channels(cls, data: Any) -> Any:
        """`pixel-low = -1` is short for `pixel-low = [-1]`."""
        if not isinstance(data, dict):
            return data
        short = {"pixel-low", "pixel-high", "pixel_low", "pixel_high"}
        return {
            key: (one,) if key in short and isinstance(one, int | float) else one for key, one in data.items()
        }

    @model_validator(mode="after")
    def _both_ends(self) -> Adapter:
        low, high = self.pixel_low, self.pixel_high
        if (low is None) != (high is None):
            raise ValueError("pixel-low and pixel-high go together; give both")
        if low is not None and high is not None:
            if len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=False)):
                raise ValueError("pixel-high must be above pixel-low in each channel")
        return self


KEYS = tuple(sorted(_kebab(name) for name in Adapter.model_fields if name != "network"))


def given(folder: AppFolder) -> Adapter:
    """What an app says about itself in its pyproject.toml; nothing without a table.

    Raises:
        UsageError: the table or the adapter is mistaken.
    """
    table, where = dict(folder.audit or {}), f"{folder.path / 'pyproject.toml'}, {TABLE}"
    named = table.pop("adapter", None)
    if named is None:
        return _checked(table, where)
    if table:
        raise UsageError(f"{where}: adapter and {', '.join(table)}; say everything in the adapter")
    return _called(named, folder.path, where)


def _checked(table: dict[str, Any], where: str) -> Adapter:
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        hint = did_you_mean(unknown[0], (*KEYS, "adapter"))
        raise UsageError(f"{where}: unknown key {unknown[0]}.{hint} Keys: adapter, {', '.join(KEYS)}")
    try:
        return Adapter.model_validate(table)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc'])) or 'table'}: {one['msg']}" for one in error.errors()]
        raise UsageError(f"{where}: {'; '.join(told)}") from error


def _called(named: Any, path: Path, where: str) -> Adapter:
    module, colon, attribute = str(named).partition(":")
    if not (isinstance(named, str) and colon and module and attribute):
        raise UsageError(f'{where}: adapter = {named!r}; expected "module:function"')
    sys.path.insert(0, str(path))
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # the app's own code
        raise UsageError(
            f"{where}: adapter = {named!r} failed with {type(error).__name__}: {error}; expected a function"
            " without arguments that returns a fedlab.apps.Adapter"
        ) from error
    finally:
        sys.path.remove(str(path))
    if not isinstance(made, Adapter):
        raise UsageError(
            f"{where}: adapter = {named!r} returned a {type(made).__name__}; expected a fedlab.apps.Adapter"
        )
    return made
