"""What the tables of a scenario are made of: names, numbers with a range, plugins with their parameters."""

from __future__ import annotations

import copy
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
"""Names become file names: a start that is neither a dot (`..`) nor a dash (an option)."""

Name = Annotated[
    str,
    Field(
        pattern=NAME,
        json_schema_extra={"x-words": "a name: 1 to 64 letters, digits and . _ -, no leading . or -"},
    ),
]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def as_table(value: object) -> object:
    """`model = "mlp"` is short for `model = { name = "mlp" }`."""
    return {"name": value} if isinstance(value, str) else value


class Section(BaseModel):
    """What all tables of a scenario share."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Plugin(Section):
    """A plugin's name and, beside it, its parameters."""

    model_config = ConfigDict(extra="allow")

    name: Name
    """Name of the plugin: `fedlab list` shows which there are."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, as TOML values."""
        return copy.deepcopy(self.model_extra or {})


PluginOrName = Annotated[Plugin, BeforeValidator(as_table, json_schema_input_type=Name | Plugin)]
