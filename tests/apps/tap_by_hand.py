"""A recording without a deployment: the Grid of a simulation tells a `Watch` what passes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.apps import folder as folders
from fedlab.apps.bounds import Printed, bounded
from fedlab.apps.flower import Books, watched
from fedlab.apps.grids import FrontGrid
from fedlab.apps.loading import forget, load
from fedlab.apps.tap.flower import Listener
from fedlab.apps.tap.recording import described
from fedlab.apps.tap.watching import Watch
from fedlab.experiment.directory import RunDirectory
from fedlab.runtime import SimulationGrid
from fedlab.runtime.wrapped import WrappedGrid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXACT = {"model": "mlp", "batch-size": 1, "max-steps": 1, "num-server-rounds": 2}
"""Of examples/pytorch-cnn: one record, one step, a linear first layer with a bias."""


class Heard(WrappedGrid):
    """Tells a listener what passes."""

    def __init__(self, grid: Grid, listener: Listener) -> None:
        super().__init__(grid)
        self.listener = listener

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        self.listener.sent(ids, messages)

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        arrived = list(replies)
        self.listener.arrived(arrived)
        return arrived


def recorded(
    app: Path,
    out: Path,
    configuration: Mapping[str, Any],
    *,
    clients: int = 2,
    observe: Collection[int] = (1,),
    told: Callable[..., None] = lambda **news: None,
    mute: bool = False,
) -> list[Message]:
    """Run an app and record it into `out`; the messages that the server sent.

    Args:
        mute: nobody listens.
    """
    folder = folders.read(app)
    apps = load(folder)
    config = {**folder.config, **configuration}
    directory = RunDirectory.create(out, "tap")
    watch = Watch(directory.path, frozenset(observe), told)
    sent: list[Message] = []

    class Kept(WrappedGrid):
        def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
            sent.extend(messages)

    def client(message: Message, context: Context) -> Message:
        context.run_config = dict(config)
        return apps.client(message, context)

    inner = Kept(SimulationGrid(client, clients))
    grid = FrontGrid(inner if mute else Heard(inner, watch), clients)
    context = Context(1, 1, {}, RecordDict(), dict(config))
    about = {"run_id": "7", "app": f"me/{folder.name}", "version": "1.0.0", "configuration": config}
    with contextlib.ExitStack() as turn:
        turn.callback(forget, apps, folder)
        turn.enter_context(bounded(Printed(), folder.path, 3))
        turn.enter_context(watched(Books(), clients))
        watch.began(about)
        apps.server(grid, context)
        grid.close()
    watch.ended(None, str(folder.path))
    directory.update_manifest(deployment={"superlink": "h:1"}, cells=[], status="finished", seeds=[0])
    described(directory)
    return sent


def arrays(message: Message) -> dict[str, bytes]:
    """The bytes of each array that a message carries."""
    return {
        f"{name}/{key}": array.data
        for name, record in message.content.items()
        if isinstance(record, ArrayRecord)
        for key, array in record.items()
    }


def stating(app: Path, to: Path, lines: str) -> Path:
    """A copy of an app whose author says something about it."""
    shutil.copytree(app, to)
    project = to / "pyproject.toml"
    project.write_text(f"{project.read_text()}\n[tool.fedlab.audit]\n{lines}")
    return to
