"""Where a curious server sits: what it sees of training, reply by reply."""

from __future__ import annotations

from flwr.app import Message

from fedlab.apps.contract import Sight
from fedlab.apps.flower import MASKED, masks
from fedlab.apps.grids import Counted, is_training
from fedlab.apps.messages import sight_of
from fedlab.errors import AppFailed

NOT_FINITE = "not-finite"
"""How the guard begins what it says of a reply that is no number."""
DIVERGED = (
    "Training diverged, then: the learning rate is too large, as a rule. Flower itself would have averaged"
    " these replies, and there is nothing in them to audit"
)


class Desk:
    """Counts the training replies, and keeps those of the rounds that are observed."""

    def __init__(self, counted: Counted, observe: frozenset[int]) -> None:
        self._counted, self._observe = counted, observe
        self.sights: list[Sight] = []
        self.replies = self.failed = self.masked = 0
        self.failure = ""
        self._evaluated = self._unevaluated = 0
        self._unevaluated_why = ""

    def see(self, message: Message, reply: Message) -> None:
        if not is_training(message):
            self._evaluation(message, reply)
            return
        stage = masks(message)
        if stage and stage != MASKED:  # keys and shares
            return
        self.count(reply)
        if stage and not reply.has_error():
            self.masked += 1
        elif not reply.has_error() and (number := self._counted.round_of(message)) in self._observe:
            self.sights.append(
                sight_of(number, self._counted.client_of(message), message.content, reply.content)
            )

    def count(self, reply: Message) -> None:
        """A training reply that is not kept."""
        self.replies += 1
        if reply.has_error():
            self.failed += 1
            self.failure = self.failure or reply.error.reason or "without a word"

    def _evaluation(self, message: Message, reply: Message) -> None:
        if message.metadata.message_type.partition(".")[0] != "evaluate":
            return
        self._evaluated += 1
        if reply.has_error():
            self._unevaluated += 1
            self._unevaluated_why = self._unevaluated_why or _last_line(reply.error.reason or "")

    @property
    def unevaluated(self) -> str:
        """How many evaluations of clients failed, and why the first did; "" if none failed."""
        if not self._unevaluated:
            return ""
        count = f"{self._unevaluated} of {self._evaluated} evaluations failed on the clients"
        return f"{count}; the first: {self._unevaluated_why}"

    @property
    def round(self) -> int:
        return self._counted.round

    @property
    def first_failure(self) -> tuple[str, str]:
        """(one line, traceback) of the first failed reply; no traceback if the guard turned it away."""
        several = "\n" in self.failure.rstrip()
        return _last_line(self.failure), self.failure if several else ""

    def check(self) -> None:
        """Whether there is anything to look at.

        Raises:
            AppFailed: no reply, or failed ones only.
        """
        if not self.replies:
            raise AppFailed("the ServerApp ended without any training reply; expected messages of type train")
        if self.failed == self.replies:
            told, trace = self.first_failure
            hint = f". {DIVERGED}" if told.startswith(NOT_FINITE) else ""
            raise AppFailed(f"all {self.replies} training replies failed; the first: {told}{hint}", trace)


def _last_line(text: str) -> str:
    """Of a traceback, the error itself."""
    return text.rstrip().split("\n")[-1] or "without a word"
