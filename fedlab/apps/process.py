"""The process in which an app runs and is attacked: its output, its exit and its hanging stay in there.

`python -m fedlab.apps.process` reads one JSON object from stdin and answers with JSON lines on what was its
stdout: progress as it comes, at the end the run directory or an error. Stdout and stderr themselves are led
into a file first, so that nothing that the app prints, from whatever depth, gets into the answer. It works
in a scratch directory, offline, without telemetry. Nothing is pickled.

Flower leaves an app where its user stood, as a rule in the app's own folder. So paths such as ./data lead
from the scratch directory where they lead from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
"""What keeps Flower and its friends to themselves."""
COPIED = 64 * 2**20
"""Bytes up to which a file of the app's folder is copied."""


class Wire:
    """Tells the parent of progress; a listener of `fedlab.progress.Progress`."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def send(self, **fields: Any) -> None:
        """One line."""
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
    asked = json.load(sys.stdin)
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.set_inheritable(wire.stream.fileno(), False)
    with tempfile.TemporaryDirectory(prefix="fedlab-app-") as scratch:
        with open(Path(scratch) / ".output", "w", encoding="utf-8") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        home = Path.cwd()
        os.environ.setdefault("FLWR_HOME", str(Path(scratch) / ".flwr"))
        lay_out(Path(asked["path"]), Path(scratch))
        with contextlib.chdir(scratch):
            return _audit(asked, home, wire)


def lay_out(app: Path, scratch: Path) -> None:
    """Let relative paths lead where they lead from the app's folder.

    Its folders are linked. Its files are copied: an app that saves a model writes over no file of the user's.
    """
    folder = app if app.is_dir() else app.parent
    for one in folder.iterdir() if folder.is_dir() else ():
        if one.name.startswith(".") or one.name == "__pycache__":
            continue
        with contextlib.suppress(OSError):  # what cannot be read is for the app to miss
            if one.is_file() and one.stat().st_size <= COPIED:
                shutil.copy2(one, scratch / one.name)
            else:
                (scratch / one.name).symlink_to(one.resolve())


def _audit(asked: dict[str, Any], home: Path, wire: Wire) -> int:
    from fedlab.errors import FedlabError, Interrupted

    try:
        from fedlab.apps.audit import audit_app

        report = audit_app(asked.pop("path"), home=home, progress=wire, **asked)
    except KeyboardInterrupt:
        wire.send(kind="error", error="Interrupted", text="stopped by the user")
        return Interrupted.exit_code
    except FedlabError as error:
        text, own = str(error), str(getattr(error, "traceback", ""))
        if own.strip() and own.strip() not in text:
            text += f"\n\n{own.rstrip()}"
        wire.send(kind="error", error=type(error).__name__, text=text)
        return error.exit_code
    except SystemExit as exit:
        wire.send(
            kind="exit", code=exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        )
        return FedlabError.exit_code
    except Exception as error:
        import traceback

        text = f"{type(error).__name__}: {error}"
        wire.send(kind="fault", text=text, traceback=traceback.format_exc())
        return FedlabError.exit_code
    wire.send(kind="done", directory=str(report.directory))
    return 0


if __name__ == "__main__":
    code = main()
    # Threads that an app left behind must not keep the process.
    os._exit(code)
