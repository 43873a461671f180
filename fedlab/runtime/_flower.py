"""The only file that touches private names of flwr (1.41); a test fails loudly when one moves.

* `TaskIdentity`: `Message(...)` refuses to be built outside of a run; this says which run it is.
  It is global to the process, so two simulations must not run in threads of one process.
* `metadata.__dict__["_message_id"]`: Flower's own in-memory Grid numbers messages like this; likewise
  `_src_node_id`, which names a reply's node.
* `TypedDict.__dict__["_data"]`: records check each entry through `typing` at every assignment, which
  takes longer than all the rest of a small client's reply; `filled` puts entries there that are known
  to be of the right type.
* `Message(metadata=...)`: how Flower itself makes a message that comes over the wire.
* `SUPERLINK_NODE_ID`, `ErrorCode`, `Run`, `RunNotRunningException`, `get_project_dir`: constants, types and
  a path with no public address.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.common.config import get_project_dir
from flwr.common.constant import SUPERLINK_NODE_ID as SUPERLINK_NODE_ID
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run as Run
from flwr.supercore.run import RunNotRunningException as RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)

RUN_ID = 1
FIRST_NODE_ID = SUPERLINK_NODE_ID + 1
"""Node ids of a simulation start here: 1 belongs to the server."""


def enter_run() -> Run:
    """Let this process build messages, as the server of a simulated run."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return Run.create_empty(RUN_ID)


def bundle_of(run: Run) -> Path | None:
    """Where Flower unpacked the bundle (FAB) of a run; None unless `flwr run` started it."""
    return get_project_dir(run.fab_id, run.fab_version, run.fab_hash) if run.fab_id else None


def quiet_logger() -> None:
    """Keep flwr's per-round INFO lines out of the terminal; warnings stay."""
    logging.getLogger("flwr").setLevel(logging.WARNING)


def number(message: Message, message_id: str) -> None:
    """Give an outgoing message its id."""
    message.metadata.__dict__["_message_id"] = message_id


def renamed(message: Message, node: int) -> Message:
    """`message`, now said to come from `node`."""
    message.metadata.__dict__["_src_node_id"] = node
    return message


def filled(record: Record, entries: Mapping[str, Any]) -> Record:
    """`record` with entries of the right type added, unchecked."""
    record.__dict__["_data"].update(entries)
    return record


def message_of(metadata: Metadata, content: RecordDict | None = None, error: Error | None = None) -> Message:
    """A message with all of its metadata given, as Flower makes one that comes over the wire."""
    message = Message.__new__(Message)  # the constructor sorts its arguments out for long
    metadata.delivered_at = ""
    message.__dict__.update(_metadata=metadata, _content=content, _error=error)
    return message


def error_reply(message: Message, reason: str) -> Message:
    """The reply of a client whose app raised."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def lost_reply(message: Message, reason: str) -> Message:
    """The reply in the name of a client that could not be reached."""
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)


def new_context(node: int, nodes: int) -> Context:
    """A client's context: its partition, and room for what it wants to remember."""
    return Context(
        run_id=RUN_ID,
        node_id=node,
        node_config={"partition-id": client_of(node), "num-partitions": nodes},
        state=RecordDict(),
        run_config={},
    )


def client_of(node_id: int) -> int:
    """The client (partition) behind a simulated node id."""
    return node_id - FIRST_NODE_ID


def node_of(client: int) -> int:
    """The simulated node id of a client."""
    return client + FIRST_NODE_ID
