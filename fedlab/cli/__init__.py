"""The command line: thin, and quick to answer.

Nothing else is imported before `main` minds Ctrl-C, which may come while the rest is still loading.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; Ctrl-C is one line and exit code 5 at any time."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("FEDLAB_DEBUG", "0") not in ("", "0")
    pressed = False

    def stop(number: int, frame: object) -> NoReturn:
        nonlocal pressed
        pressed = True  # some modules, while they are imported, swallow what this raises, and break later
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, stop)
    try:
        try:
            from fedlab.cli.app import execute

            code = execute(
                [item for item in given if item != "--debug"], debug=debug, stopped=lambda: pressed
            )
        except Exception as error:  # an import that Ctrl-C stops may end in any error
            from fedlab.plugins import interrupted

            if not pressed and not interrupted(error):
                raise
            raise KeyboardInterrupt from error
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 5  # of fedlab.errors.Interrupted, which may be what could not be imported
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, before)
    sys.exit(code)
