"""The process that executes a deployed run's ServerApp: `flwr-serverapp`, and somebody who writes down.

`python -m fedlab.apps.tap.process` reads one JSON object from stdin (the token is on no command line) and
tells on what was its stdout how the run goes, as JSON lines. Stdout and stderr themselves go to a file of the
run directory, and to the SuperLink, as Flower does it. It works where it was started, as Flower's executor.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from fedlab.apps.bounds import own_traceback, words
from fedlab.apps.process import Wire
from fedlab.apps.tap import OUTPUT
from fedlab.apps.tap.flower import serve
from fedlab.apps.tap.watching import Watch
from fedlab.runtime._flower import RunNotRunningException


def main() -> None:
    """Execute the run; the exit code is Flower's."""
    asked = json.load(sys.stdin)
    directory = Path(asked["directory"])
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.set_inheritable(wire.stream.fileno(), False)
    with open(directory / OUTPUT, "a", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    watch = Watch(directory, frozenset(asked["observe"]), lambda **news: wire.send(**_told(news)))
    serve([*asked["arguments"], "--parent-pid", str(os.getppid())], watch, asked["patience"])


def _told(news: dict[str, Any]) -> dict[str, Any]:
    """News as JSON: an exception becomes its words, its own traceback, and whose fault it is."""
    if news["kind"] != "ended":
        return news
    error = news["error"]
    if error is None:
        return {"kind": "ended", "how": "well"}
    return {
        "kind": "ended",
        "how": _how(error),
        "text": words(error),
        "traceback": own_traceback(error, Path(news["folder"])),
    }


def _how(error: BaseException) -> str:
    """ "stopped" from outside, "gone" (the SuperLink), or "failed" by itself."""
    if isinstance(error, RunNotRunningException):
        return "stopped"
    if isinstance(error, httpx.TransportError):
        return "gone"
    # Flower's signal handlers leave by SystemExit, from wherever the app was.
    left = isinstance(error, SystemExit) and error.code == 0
    return "stopped" if left or isinstance(error, KeyboardInterrupt) else "failed"


if __name__ == "__main__":
    main()
