"""The process in which an app runs and is attacked: its output, its exit and its hanging stay in there.

`python -m fedlab.apps.process` reads one line of JSON from stdin, which then is its leash, and answers with
JSON lines on what was its stdout: progress as it comes, at the end the run directory or an error. Stdout and
stderr themselves are led into a file first, so that nothing that the app prints, from whatever depth, gets
into the answer. It works in a scratch directory (`fedlab.apps.scratch`), offline, without telemetry. Nothing
is pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fedlab.apps.scratch import lay_out
from fedlab.leash import hold

if TYPE_CHECKING:
    from fedlab.report import AuditReport

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
"""What keeps Flower and its friends to themselves."""


class Wire:
    """Tells the parent of progress; a listener of `fedlab.progress.Progress`."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def send(self, **fields: Any) -> None:
        """One line."""
        with contextlib.suppress(BrokenPipeError):  # nobody listens: the leash is about to end this
            self.stream.write(json.dumps(fields, allow_nan=False) + "\n")
            self.stream.flush()

    def start(self, job: str, total: int) -> None:
        self.send(kind="start", job=job, total=total)

    def advance(self, job: str, done: int, note: str = "") -> None:
        self.send(kind="advance", job=job, done=done, note=note)

    def finish(self, job: str, note: str = "") -> None:
        self.send(kind="finish", job=job, note=note)

    def message(self, text: str) -> None:
        self.send(kind="message", text=text)


def main() -> int:
    """Do what the parent asks; the exit code is that of the error."""
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    sys.dont_write_bytecode = True  # the app's folder is its user's
    asked = json.loads(sys.stdin.readline())
    hold()
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.set_inheritable(wire.stream.fileno(), False)
    with tempfile.TemporaryDirectory(prefix="fedlab-app-") as scratch:
        with open(Path(scratch) / ".output", "w", encoding="utf-8") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        home = Path.cwd()
        os.environ.setdefault("FLWR_HOME", str(Path(scratch) / ".flwr"))
        laid = lay_out(Path(asked.pop("folder")), Path(scratch))
        with contextlib.chdir(scratch):
            end = _ended(asked, home, wire)
        for line in laid.told():
            wire.message(line)
        wire.send(**end)
        return int(end["code"])


def _ended(asked: dict[str, Any], home: Path, wire: Wire) -> dict[str, Any]:
    """Do it; what to say at the end."""
    from fedlab.errors import FedlabError, Interrupted

    try:
        return {"kind": "done", "directory": str(_done(asked, home, wire).directory), "code": 0}
    except KeyboardInterrupt:
        return {
            "kind": "error",
            "error": "Interrupted",
            "text": "stopped by the user",
            "code": Interrupted.exit_code,
        }
    except FedlabError as error:
        text, own = str(error), str(getattr(error, "traceback", ""))
        if own.strip() and own.strip() not in text:
            text += f"\n\n{own.rstrip()}"
        return {"kind": "error", "error": type(error).__name__, "text": text, "code": error.exit_code}
    except SystemExit as exit:
        ended = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        return {"kind": "exit", "ended": ended, "code": FedlabError.exit_code}
    except Exception as error:
        import traceback

        text = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
        return {"kind": "fault", "text": text, "traceback": trace, "code": FedlabError.exit_code}


def _done(asked: dict[str, Any], home: Path, wire: Wire) -> AuditReport:
    """What is asked, by the name of its function."""
    from fedlab import apps

    match asked.pop("do"):
        case "audit":
            return apps.audit_app(asked.pop("path"), home=home, progress=wire, **asked)
        case "attack":
            return apps.attack_app(asked.pop("path"), progress=wire, **asked)
        case "attack a recording":
            from fedlab.apps.tap import attack_recording

            return attack_recording(asked.pop("path"), asked.pop("app"), progress=wire, **asked)
        case _:
            return apps.resume_app(asked.pop("path"), progress=wire, **asked)


if __name__ == "__main__":
    code = main()
    # Threads that an app left behind must not keep the process.
    os._exit(code)
