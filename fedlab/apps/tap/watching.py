"""What a tap sees of a deployed run, written down as it comes.

A client is known by the order in which clients were first asked: Flower draws the ids of its nodes at
random. Updates are kept by the names of their messages; what they mean for a network is found out later.
Whatever goes wrong here is noted and ends the recording, and never the run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from fedlab import files
from fedlab.apps.contract import Arrays, Sight
from fedlab.apps.desk import Desk
from fedlab.apps.grids import Rounds, is_training
from fedlab.apps.measured import strict
from fedlab.apps.recorded import bare
from fedlab.apps.tap import CELL, NAME
from fedlab.audit import KnownConfig, archive
from fedlab.runtime.wrapped import numbered


class Watch:
    """A listener of `fedlab.apps.tap.flower`; counts rounds, and keeps the replies of those observed.

    Args:
        directory: of the run.
        observe: rounds, counted from 1.
        tell: called with what happened, for the terminal ("round", "ended").
    """

    def __init__(self, directory: Path, observe: frozenset[int], tell: Callable[..., None]) -> None:
        self.directory, self.observe, self._tell = directory, observe, tell
        self._rounds = Rounds(began=self._next)
        self._desk = Desk(self, observe)
        self._clients: dict[int, int] = {}
        self._open: dict[str, Message] = {}
        self._sent: dict[int, Arrays] = {}
        self._arrays: list[str] = []
        self._lock = threading.Lock()
        self._about: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []
        self._other = self._empty = 0
        self.fault = ""

    @property
    def round(self) -> int:
        return self._rounds.round

    def round_of(self, message: Message) -> int:
        return self._rounds.round_of(message)

    def client_of(self, message: Message) -> int:
        return self._clients[message.metadata.dst_node_id]

    def began(self, about: Mapping[str, Any]) -> None:
        self._about = {**about, "configuration": strict(about["configuration"])}
        self._try(self._write)

    def sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        self._try(self._note, numbered(ids, messages))

    def arrived(self, replies: Sequence[Message]) -> None:
        self._try(self._see, replies)

    def ended(self, error: BaseException | None, folder: str) -> None:
        self._try(self._write)
        self._tell(kind="ended", error=error, folder=folder)

    def _try(self, what: Callable[..., None], *arguments: Any) -> None:
        """The federation goes on, whatever becomes of its recording."""
        with self._lock:  # Flower's older server sends from several threads
            if self.fault:
                return
            try:
                what(*arguments)
            except Exception as error:
                self.fault = f"{type(error).__name__}: {error}"[:1000]
                self._open.clear()
                self._tell(kind="fault", text=self.fault)
                with contextlib.suppress(Exception):  # the disk may be what is at fault
                    self._write()

    def _note(self, sent: Sequence[tuple[str, Message]]) -> None:
        training = [(i, message) for i, message in sent if is_training(message)]
        for _, message in training:
            self._clients.setdefault(message.metadata.dst_node_id, len(self._clients))
        self._rounds.sent([i for i, _ in training], [message for _, message in training])
        # Of other rounds no content is held on to.
        self._open |= {i: message for i, message in training if self.round_of(message) in self.observe}

    def _see(self, replies: Sequence[Message]) -> None:
        self._rounds.arrived(replies)
        for reply in replies:
            message = self._open.pop(reply.metadata.reply_to_message_id, None)
            if message is not None:
                self._desk.see(message, reply)
            elif is_training(reply):
                self._desk.count(reply)
        if any(is_training(reply) for reply in replies):
            self._keep(self._desk.sights)
            self._desk.sights = []
            self._write()

    def _next(self, number: int) -> None:
        self._tell(kind="round", number=number)

    def _keep(self, sights: Sequence[Sight]) -> None:
        good = []
        for one in sights:
            first = self._sent.setdefault(one.round, one.before)
            if not _equal(first, one.before):  # the archive holds one model per round
                self._other += 1
            elif not one.before or not _fits(one.before, one.after):
                self._empty += 1
            else:
                good.append(one)
        if good:
            seen = [bare(one, KnownConfig()) for one in good]
            archive.add(self.directory / "observations" / CELL, seen)
            self._arrays = self._arrays or list(good[0].before)
            self._kept += [
                {
                    "round": one.round,
                    "client": one.client,
                    "told": strict(one.told),
                    "metrics": strict(one.metrics),
                }
                for one in good
            ]

    def _write(self) -> None:
        """Everything but the tensors, whole at any time."""
        files.write_json(
            self.directory / NAME,
            {
                "schema": 1,
                **self._about,
                "observe": sorted(self.observe),
                "rounds": self.round,
                "clients": len(self._clients),
                "nodes": {str(client): str(node) for node, client in self._clients.items()},
                "replies": self._desk.replies,
                "failed": self._desk.failed,
                "failure": self._desk.failure[:4000],
                "left_out": {"other_model": self._other, "no_update": self._empty},
                "fault": self.fault,
                "arrays": self._arrays,
                "kept": sorted(self._kept, key=lambda one: (one["round"], one["client"])),
            },
        )


def _equal(first: Arrays, other: Arrays) -> bool:
    same = first.keys() == other.keys()
    return same and (first is other or all(np.array_equal(first[k], other[k], equal_nan=True) for k in first))


def _fits(before: Arrays, after: Arrays) -> bool:
    return all(key in after and after[key].shape == value.shape for key, value in before.items())
