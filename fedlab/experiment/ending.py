"""How a run ends: the manifest says so, whatever happens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fedlab.errors import BackendError, Interrupted
from fedlab.experiment.directory import RunDirectory

ENDINGS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextmanager
def recorded(directory: RunDirectory) -> Iterator[None]:
    """Let the manifest say how it ended, whatever happens."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt:
        directory.update_manifest(status="interrupted", finished=now())
        raise Interrupted(
            f"stopped by the user; {directory.path} keeps what was written and is marked interrupted"
        ) from None
    except BaseException as error:
        try:
            directory.update_manifest(status="failed", error=str(error), finished=now())
        except BackendError:
            pass  # the disk that failed the run cannot take the news either
        raise


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C while the block runs (in the main thread).

    Enter it again after Ray has started: Ray installs a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
