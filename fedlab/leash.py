"""A process that ends when whoever started it does.

Standard input is the leash: when its other end is closed, because the process that held it is gone, however
that went, this one is interrupted, which keeps what it has done, and soon after ended with all that it
started.
"""

from __future__ import annotations

import os
import signal
import threading
import time

PATIENCE = (2.0, 3.0)
"""Seconds to the second interruption, which waits for no round to end, and from there to the end."""


def hold() -> None:
    """Mind the leash from here on."""
    leash = os.dup(0)  # which nothing that is started from here inherits
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    threading.Thread(target=_wait, args=(leash,), daemon=True).start()


def _wait(leash: int) -> None:
    while os.read(leash, 1):
        pass
    for pause in PATIENCE:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
