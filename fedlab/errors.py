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
    │   └── NewerRun            3  a run directory that a newer fedlab wrote
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

A message says what went wrong, what was got, what was expected, and what to do about it. So does each class
below for all its messages: what happened, what to do, an example. `fedlab explain` shows it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class FedlabError(Exception):
    """Something failed; the message says what.

    The message says what went wrong. Mend that, and go on with `fedlab resume RUN`, or run again.
    For example, the first three rounds brought no usable update: all clients diverged to NaN.
    """

    exit_code = 1


class UsageError(FedlabError):
    """A command or an argument that cannot work.

    Correct it as the message says; nothing was started.
    For example, `fedlab run quickstart --set strategy.round=50`, where an s is missing.
    """

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a scenario: `place` is a dotted path or a line, `message` the one sentence."""

    place: str
    message: str


class ScenarioError(UsageError):
    """All the mistakes of one scenario.

    Correct each at its line; `fedlab validate FILE` looks again without running anything.
    For example, `clients.batch_size (line 12): got -1; expected a whole number of at least 0`.
    """

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{source}: {count} mistake{'s' if count != 1 else ''}"]
        lines += [f"  {problem.place}: {problem.message}" for problem in self.problems]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.source, self.problems)  # a worker process may have to tell of it


ALIKE = 0.65
"""How alike (difflib's ratio) two names must be: what two slips of the keyboard leave; other words are not.
Of two letters, one may be a slip."""


def clause(text: str) -> str:
    """A reason up to its first semicolon: what went wrong, without what to do about it."""
    return text.partition(";")[0].strip()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`' Did you mean "x"?'`, or nothing when no known name comes near, nor has this one as a word of it."""
    asked, names = name.casefold(), {one.casefold(): one for one in known}
    near = difflib.get_close_matches(asked, names, n=1, cutoff=ALIKE if len(asked) > 2 else 0.5)
    near = near or [one for one in names if asked in re.split(r"[\W_]+", one)]
    return f' Did you mean "{names[near[0]]}"?' if near else ""


class UnknownName(UsageError):
    """No plugin of that name.

    Take one that the message lists, or install the package that brings it; `fedlab list` shows all.
    For example, the defense "dp-sdg" in place of "dp-sgd".
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self.kind, self.name, self.known = kind, name, names
        super().__init__(
            f'no {kind} is called "{name}".{did_you_mean(name, names)} Known: {", ".join(names) or "none"}.'
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.kind, self.name, self.known)


class MissingFacts(UsageError):
    """What must be known of a Flower app, and neither its messages nor its clients showed.

    Write the lines that the message shows where it says.
    For example, the range of the pixels of an app that normalises them.
    """


class BadGate(UsageError):
    """An audit gate that cannot be read, or that names nothing.

    Correct it where the marks point; `fedlab report RUN --fail-on EXPR` tries it on a finished run.
    For example, `attack.linaer-layer.psnr_median > 20`: no attack is called so.

    Attributes:
        span: the place in the expression.
    """

    def __init__(self, expression: str, span: tuple[int, int], problem: str) -> None:
        self.expression, self.span, self.problem = expression, span, problem
        shown = "".join(c if c.isprintable() else "\ufffd" for c in expression)
        marks = " " * span[0] + "^" * max(1, min(span[1], len(shown)) - span[0])
        super().__init__(f"gate: {problem}\n  {shown}\n  {marks}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.expression, self.span, self.problem)


class PluginError(UsageError):
    """A plugin that does not import, or breaks its contract.

    Repair or uninstall the package that the message names; `fedlab info NAME` shows the plugin.
    For example, an attack that answers two observations with one reconstruction.
    """


class BadApp(UsageError):
    """A Flower app that cannot be read or imported.

    Mend the app, or install what it imports; `flwr run` would fail likewise.
    For example, a pyproject.toml without [tool.flwr.app.components].

    Attributes:
        traceback: its own, "" if it never ran.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


class AppFailed(FedlabError):
    """A Flower app failed by itself while it ran.

    The traceback is the app's: mend what it points at.
    For example, a client that reads a data set that is not there.

    Attributes:
        traceback: its own, "" if it has none.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        self.traceback = traceback
        super().__init__(message)


class DataError(FedlabError):
    """A data set that is missing, truncated or altered.

    `fedlab data list` says what is there, `fedlab data fetch NAME` downloads a data set, `fedlab data verify`
    compares hashes. Of a damaged run, restore the file from a copy, or run again.
    For example, `fedlab run fashion` before Fashion-MNIST was fetched.
    """

    exit_code = 3


class NewerRun(DataError):
    """A run directory that a newer fedlab wrote.

    Update fedlab, or look at the run where it was made; its report.html opens anywhere.
    For example, `fedlab compare` with a run that a colleague's newer version made.
    """


class GateFailed(FedlabError):
    """An audit gate does not hold.

    The run is whole, and so is its report: read which gate failed and by how much, and change the training
    or, with good reason, the gate.
    For example, `--fail-on "attack.*.psnr_median > 20"` where an attack reached 151 dB.
    """

    exit_code = 4


class Interrupted(FedlabError):
    """Stopped by the user before the end.

    `fedlab resume RUN` goes on to the same bits; the message names the directory.
    For example, Ctrl-C, or SIGTERM from a batch system.
    """

    exit_code = 5


class BackendError(FedlabError):
    """The machine, Ray or a file system refuses.

    `fedlab doctor` looks for the cause; once it is gone, `fedlab resume RUN` goes on.
    For example, a full disk, or runtime.num_gpus = 1 where torch finds no GPU.
    """

    exit_code = 6


class BudgetExhausted(FedlabError):
    """The privacy budget is spent.

    The report is of the model as it was then. To train on, start a new run with a larger privacy.budget, more
    noise, fewer rounds or fewer steps a round.
    For example, dp-sgd with privacy.budget = 4 when the next round would cost ε = 4.1.

    Attributes:
        report: that of the run that stopped so, if there is one.
    """

    exit_code = 7

    def __init__(self, message: str, report: object | None = None) -> None:
        super().__init__(message)
        self.report = report


class NotApplicable(FedlabError):
    """An attack cannot answer this observation; the message says which condition fails.

    Nothing, if another attack applies: the report lists this one as not applicable, and why.
    For example, an attack on the first linear layer of a network that begins with a convolution.
    """


class ForeignObservation(NotApplicable):
    """The observation is of another network than the one that the attacker was given.

    Give the attack the network that clients train, with the defense's changes to it.
    For example, an observation of a network of width 64, and a victim of width 32.
    """


class UnusableUpdate(NotApplicable):
    """The update says nothing: it is zero, or not finite.

    See whether the client diverged, or had nothing to learn; lower the learning rate, or observe other
    rounds.
    For example, an update of NaN after a learning rate of 100.
    """


class MissingBuffers(NotApplicable):
    """The attack lives on batch-norm statistics that the observation lacks.

    Nothing, if clients mean to keep them: that is what protects them. Otherwise observe a network with batch
    norm.
    For example, gia-running on an mlp.
    """


class Contradiction(NotApplicable):
    """What is known of the batch (its size, its labels) and the update cannot all be right.

    Correct what the threat model grants.
    For example, a batch of one record with two labels.
    """


class MissingKnowledge(FedlabError):
    """An attack needs knowledge that the threat model denies.

    Grant it in [threat], if such an attacker is to be assumed, or leave the attack out.
    For example, deep-leakage with batch_size = false.
    """
