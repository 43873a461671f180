"""Every error that fedlab raises on purpose, and the exit code that the CLI gives it.

    FedlabError                 1  run failed
    ├── UsageError              2  a command or an argument that cannot work
    │   ├── ScenarioError       2  every mistake in a scenario file, at once
    │   ├── UnknownName         2  no plugin of that name; says which there are
    │   ├── MissingFacts        2  what must be known of an app and cannot be found; shows the lines to write
    │   ├── BadGate             2  an audit gate that cannot be read, or names nothing; points at the place
    │   ├── PluginError         2  a plugin that does not import or breaks its contract
    │   └── BadApp              2  a Flower app that cannot be read or imported; tells every mistake
    ├── DataError               3  a data set that is missing, truncated or altered
    ├── GateFailed              4  an audit gate does not hold
    ├── Interrupted             5  stopped by the user
    ├── BackendError            6  the machine, Ray or a file system refuses
    ├── BudgetExhausted         7  the privacy budget is spent; the run stopped before overspending
    ├── NotApplicable           1  an attack cannot answer this observation, and says why
    │   ├── ForeignObservation  1  it is of another network
    │   ├── UnusableUpdate      1  the update is not finite, or zero
    │   ├── MissingBuffers      1  the attack lives on batch-norm statistics that did not arrive
    │   └── Contradiction       1  batch size, labels and update cannot all be right
    ├── AppFailed               1  a Flower app failed by itself while it ran; has its own traceback
    └── MissingKnowledge        1  an attack needs knowledge that the threat model denies

A message says what went wrong, what was got, what was expected, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class FedlabError(Exception):
    """A failure with a message for people and an exit code for scripts."""

    exit_code = 1


class UsageError(FedlabError):
    """A command or an argument that cannot work."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a scenario: `place` is a dotted path or a line, `message` the one sentence."""

    place: str
    message: str


class ScenarioError(UsageError):
    """All the mistakes of one scenario."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{source}: {count} mistake{'s' if count != 1 else ''}"]
        lines += [f"  {problem.place}: {problem.message}" for problem in self.problems]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.source, self.problems)  # a worker process may have to tell of it


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`' Did you mean "x"?'`, or nothing when no known name comes near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


class UnknownName(UsageError):
    """No plugin of that name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self.kind, self.name, self.known = kind, name, names
        super().__init__(
            f'no {kind} is called "{name}".{did_you_mean(name, names)} Known: {", ".join(names) or "none"}.'
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.kind, self.name, self.known)


class MissingFacts(UsageError):
    """What must be known of a Flower app, and neither its messages nor its clients showed."""


class BadGate(UsageError):
    """An audit gate that cannot be read, or that names nothing: `span` is the place in the expression."""

    def __init__(self, expression: str, span: tuple[int, int], problem: str) -> None:
        self.expression, self.span, self.problem = expression, span, problem
        shown = "".join(c if c.isprintable() else "\ufffd" for c in expression)
        marks = " " * span[0] + "^" * max(1, min(span[1], len(shown)) - span[0])
        super().__init__(f"gate: {problem}\n  {shown}\n  {marks}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.expression, self.span, self.problem)


class PluginError(UsageError):
    """A plugin that does not import, or breaks its contract."""


class BadApp(UsageError):
    """A Flower app that cannot be read or imported; `traceback` is its own, "" if it never ran."""

    def __init__(self, message: str, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


class AppFailed(FedlabError):
    """A Flower app failed by itself while it ran; `traceback` is its own, "" if it has none."""

    def __init__(self, message: str, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


class DataError(FedlabError):
    """A data set that is missing, truncated or altered."""

    exit_code = 3


class GateFailed(FedlabError):
    """An audit gate does not hold."""

    exit_code = 4


class Interrupted(FedlabError):
    """Stopped by the user before the end."""

    exit_code = 5


class BackendError(FedlabError):
    """The machine, Ray or a file system refuses."""

    exit_code = 6


class BudgetExhausted(FedlabError):
    """The privacy budget is spent; `report` is that of the run that stopped so, if there is one."""

    exit_code = 7

    def __init__(self, message: str, report: object | None = None) -> None:
        super().__init__(message)
        self.report = report


class NotApplicable(FedlabError):
    """An attack cannot answer this observation; the message says which condition fails."""


class ForeignObservation(NotApplicable):
    """The observation is of another network than the one that the attacker was given."""


class UnusableUpdate(NotApplicable):
    """The update says nothing: it is zero, or not finite."""


class MissingBuffers(NotApplicable):
    """The attack lives on batch-norm statistics that the observation lacks."""


class Contradiction(NotApplicable):
    """What is known of the batch (its size, its labels) and the update cannot all be right."""


class MissingKnowledge(FedlabError):
    """An attack needs knowledge that the threat model denies."""
