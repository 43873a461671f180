"""What a side says to the benchmark: one line of JSON when it is ready, one for each measurement.

Standard library only: every environment imports it. What the side's libraries print goes to the
error stream.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

PACKAGES = ("breaching", "fedlab", "flwr", "opacus", "pfl", "ray", "torch")


def serve(run: Callable[[int], Any], warm_up: int) -> None:
    """Answer each line `N` on the input with how long `run(N)` took, until the input ends.

    The answer is what `run` returned, if that is a mapping, beside `seconds` and `cpu_seconds` (of
    this process, all threads). `run(warm_up)` comes first and does not count.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(content: Mapping[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    run(warm_up)
    reply({"versions": versions()})
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        found = run(int(line))
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        reply(took | (dict(found) if isinstance(found, Mapping) else {}))


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are installed here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
