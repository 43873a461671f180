"""The device that is measured: is it there, what is it, and when is it done?"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import metadata

import torch


def absent(device: str) -> str:
    """Why nothing can be measured on `device`, in torch's words ("cuda", "cpu"); "" if it can."""
    if device == "cpu" or torch.cuda.is_available():
        return ""
    why = (
        f"torch {torch.__version__} is built without CUDA"
        if torch.version.cuda is None
        else "torch finds no GPU"
    )
    return (
        f"no GPU: {why}; nothing was measured. Run this on a machine with one, or see that the code works:"
        " python -m benchmarks.gpu --device cpu --tiny"
    )


def name(device: str) -> str:
    """What it is called."""
    return torch.cuda.get_device_name() if device != "cpu" else "the CPU, one thread"


def versions(device: str) -> dict[str, str]:
    """Of what a figure depends on."""
    found = {package: metadata.version(package) for package in ("torch", "numpy", "flwr")}
    if device != "cpu":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found


def seconds(device: str, work: Callable[[], object]) -> float:
    """Wall clock from an idle device to an idle device."""
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def peak_bytes(device: str, work: Callable[[], object]) -> float:
    """The most memory of the GPU that tensors held meanwhile; 0 on a CPU."""
    if device == "cpu":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    work()
    return float(torch.cuda.max_memory_allocated())


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
