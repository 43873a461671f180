"""How a run ends: the manifest says so, whatever happens, and what was done is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fedlab.errors import BackendError, Interrupted
from fedlab.experiment.directory import RunDirectory

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Stop:
    """What Ctrl-C, SIGTERM and a closed terminal do: they raise KeyboardInterrupt.

    In a `patient` block the first one only sets `asked`, so that the round at hand can be finished and
    written down; the second raises at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._notice: Callable[[], None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Mind the signals while the block runs (in the main thread), except those that are ignored,
        as under nohup. Enter it again after Ray has started: Ray installs a handler of its own.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def stop(number: int, frame: object) -> None:
            if self._notice is not None and not self.asked:
                self.asked = True
                with contextlib.suppress(OSError, RuntimeError):  # the terminal may be gone, or be busy
                    self._notice()
                return
            earlier = before[signal.Signals(number)]
            if number == signal.SIGINT and callable(earlier):
                earlier(number, None)  # the command line wants to know
            raise KeyboardInterrupt

        minded = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
        for number in minded:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number in minded:
                signal.signal(number, before[number] or signal.SIG_DFL)

    @contextmanager
    def patient(self, notice: Callable[[], None]) -> Iterator[None]:
        """Let the first signal in this block only set `asked`, and call `notice`."""
        self._notice = notice
        try:
            yield
        finally:
            self._notice = None


@contextmanager
def recorded(directory: RunDirectory) -> Iterator[Stop]:
    """Let the manifest say how it ended, whatever happens.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    stop = Stop()
    try:
        with stop.installed():
            yield stop
    except KeyboardInterrupt:
        directory.update_manifest(status="interrupted", finished=now())
        directory.event("interrupted")
        raise Interrupted(f"stopped by the user. {_how_to_resume(directory)}") from None
    except BackendError as error:
        _failed(directory, error)
        raise BackendError(f"{error}\n{_how_to_resume(directory)}") from error
    except BaseException as error:
        _failed(directory, error)
        raise


def _failed(directory: RunDirectory, error: BaseException) -> None:
    with contextlib.suppress(BackendError):  # the disk that failed the run cannot take the news either
        directory.update_manifest(status="failed", error=str(error), finished=now())
        directory.event("failed", kind=type(error).__name__, error=str(error))


def _how_to_resume(directory: RunDirectory) -> str:
    return f"To go on from there: fedlab resume {directory.path}"


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
