"""Between Flower's records and tensors."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord

from fedlab.tasks import State


def tensors(record: ArrayRecord) -> State:
    """The record's arrays as tensors of their own, which share no memory with it."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}
