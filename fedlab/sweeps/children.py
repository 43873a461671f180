"""A cell at work: a process of its own, in a process group of its own, that does not outlive us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlab import files

PROGRAM = (sys.executable, "-P", "-m", "fedlab.cli.leashed")
"""What a cell runs."""
LONGEST_ERROR = 2000
"""Characters of an error that are kept."""
LAST = 4000
"""Bytes of a log in which the last line is looked for."""


class Child:
    """`fedlab WORDS...`, whose output goes to `log`.

    It minds signals for itself: Ctrl-C in the terminal reaches only us. If we are killed, its leash breaks.
    """

    def __init__(self, words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        files.write_text(log, "")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*PROGRAM, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: text for name, text in os.environ.items() if name != "FORCE_COLOR"} | environment,
            )

    def ended(self) -> int | None:
        """Its exit code, once it is gone and all that it started with it; None while it works."""
        # It stays a zombie until its group is ended: nobody else can have the number meanwhile.
        if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._end_group()
        return self._reaped()

    def interrupt(self) -> None:
        """Let it finish its round and write down what it has; the second time, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started."""
        self._end_group()
        self._reaped()

    def said(self) -> str:
        """The last line that it printed; none before it has begun, when it only says what it reads."""
        lines = self._printed(LAST).splitlines()
        return lines[-1] if len(lines) > 1 else ""

    def error(self) -> str:
        """What it said last: its error, if it told of one."""
        text = self._printed()
        if (place := text.rfind("error: ")) >= 0:
            return text[place:].removeprefix("error: ")[:LONGEST_ERROR]
        return text[-LONGEST_ERROR:]

    def _printed(self, last: int | None = None) -> str:
        """What is in its log, or at its end."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            if last is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last))
            return file.read().decode(errors="replace").strip()
        return ""

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _reaped(self) -> int:
        code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return code
