"""`[map]`: the same attacks on the same victims, while one setting after another is turned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedlab.scenario.sections import Name, Section

Fraction = Annotated[float, Field(ge=0, le=1)]


class Map(Section):
    """What leaks as one setting after another is turned; the scenario itself is the base.

    Every point has the client modes, the seeds, the victims, the attacks and the defense of the scenario.
    """

    axes: Annotated[
        dict[str, Annotated[tuple[Any, ...], Field(min_length=1, strict=False)]], Field(min_length=1)
    ]
    """Key of `[task.model]` or `[clients]` -> the values that it takes, as in `"task.model.width" = [8, 32]`;
    the scenario's own value is on every axis."""
    design: Literal["one-at-a-time", "grid"] = "one-at-a-time"
    """Turn one setting and leave the others as the scenario has them, or take every combination."""
    basin: Annotated[tuple[Fraction, ...], Field(strict=False)] = ()
    """Basin of attraction: shares of the true image's pixels that noise replaces in the image from which an
    attack starts. A diagnosis of the attack, and no attack: nobody else has the truth to start from."""
    basin_attack: Name | None = None
    """Label of the attack whose basin that is; the first of `[[attacks]]` unless given."""
