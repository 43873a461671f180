"""What a closed-form attack proves about its own answer, without ground truth.

A certificate is about a system of equations: how many unknowns it has, which rank, how well conditioned it
is, and how well the solution explains the update. `fedlab.glossary.VERDICTS` says what the verdicts mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["unique", "not unique", "not applicable"]


@dataclass(frozen=True)
class Certificate:
    """One method's verdict on one observation.

    Attributes:
        method: what solved it, in words ("linear layer", "sparse batch").
        verdict: see `Verdict`.
        solved: what was solved for ("the record", "8 records", "the hidden code").
        reason: why it is not applicable, or what is left open.
        rank, unknowns: of the linear system(s); the solution is unique where they are equal.
        condition: largest singular value over the smallest that counts; inf is singular.
        null_space: dimension of the space of other solutions; 0 where it is unique.
        residual: relative distance, in [0, inf), between the observed quantity and what the answer
            explains; NaN where none was computed.
    """

    method: str
    verdict: Verdict
    solved: str = ""
    reason: str = ""
    rank: int | None = None
    unknowns: int | None = None
    condition: float | None = None
    null_space: int | None = None
    residual: float = float("nan")

    @classmethod
    def refused(cls, method: str, reason: str) -> Certificate:
        """The method does not apply here."""
        return cls(method, "not applicable", reason=reason)

    @property
    def proves(self) -> bool:
        """Whether the answer is the only one."""
        return self.verdict == "unique"

    def __str__(self) -> str:
        if self.verdict == "not applicable":
            return f"{self.method}: not applicable because {self.reason}"
        if self.verdict == "not unique":
            found = f"not unique: null space of dimension {self.null_space}"
            return f"{self.method}: {found}" + (f" ({self.reason})" if self.reason else "")
        return f"{self.method}: unique" + (f" ({self.solved})" if self.solved else "")

    def to_dict(self) -> dict[str, Any]:
        """For JSON: non-finite numbers are None."""
        found = dict(vars(self))
        for key in ("condition", "residual"):
            value = found[key]
            finite = value is not None and value == value and abs(value) != float("inf")
            found[key] = value if finite else None
        return found | {"text": str(self)}
