"""Out of memory, told apart from every other failure.

A client that fails is a failed reply, but a machine that is too small must stop the run: the same
chunk would fail again everywhere, and the user has a setting for it.
"""

from __future__ import annotations

import torch

from fedlab.errors import BackendError

_PHRASES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
"""How torch says it on a CPU, where it raises a bare RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that this machine, its GPU or Ray's memory guard has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if any(
        c.__name__ == "OutOfMemoryError" and c.__module__ == "ray.exceptions" for c in type(error).__mro__
    ):
        return True  # by name, so that nobody pays for importing Ray to ask
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def as_backend_error(error: BaseException, chunk: int) -> BackendError:
    """What to tell the user after `out_of_memory(error)` in a chunk of `chunk` clients."""
    told = str(error).strip().split("\n")[0] or type(error).__name__
    advice = "lower runtime.chunk, or runtime.workers" if chunk > 1 else "lower runtime.workers"
    plural = "s" if chunk != 1 else ""
    return BackendError(f"out of memory in a chunk of {chunk} client{plural}: {told}. Please {advice}")
