"""The rule for chunks: by model, batch and cohort alone."""

import pytest
from torch import nn

from fedlab.clients import ClientConfig
from fedlab.clients.stacking import Chunking, chunking
from fedlab.tasks import FunctionalModel


def linear(inputs: int) -> FunctionalModel:
    return FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(inputs, 10)), (1, 1, inputs))


@pytest.mark.parametrize(
    ("inputs", "batch", "cohort", "size", "expected"),
    [
        (64, 1, 10, None, Chunking(10, True)),
        (64, 1, 1000, None, Chunking(50, True)),
        (64, 1, 3, None, Chunking(1, False)),  # stacks of 3 gain nothing
        (64, 1, 10, 50, Chunking(50, True)),
        (64, 1, 10, 2, Chunking(2, False)),
        (10_000, 1, 50, None, Chunking(4, False)),  # 100,010 parameters
        (10_000, 1, 50, 10, Chunking(10, False)),
        # 2 * 5,000 * 10 operations forward and 3 times that for a step: 11 records pass 3e6, 10 do not.
        (5_000, 10, 50, None, Chunking(50, True)),
        (5_000, 11, 50, None, Chunking(13, True)),
        (5_000, 11, 200, None, Chunking(16, True)),
        (5_000, 11, 10, None, Chunking(4, True)),
        # 2 * 9,000 * 10 and 3 times that: 371 records pass 2e8, 370 do not.
        (9_000, 370, 50, None, Chunking(13, True)),
        (9_000, 371, 50, None, Chunking(4, False)),
        (9_000, 0, 50, None, Chunking(4, False)),  # full batches of 400 records
    ],
)
def test_the_cut(inputs: int, batch: int, cohort: int, size: int | None, expected: Chunking) -> None:
    config = ClientConfig(batch_size=batch)
    assert chunking(linear(inputs), config, records=400, cohort=cohort, size=size) == expected


def test_operations_are_counted_for_one_example() -> None:
    assert linear(64).flops == 2 * 64 * 10
    assert linear(64).parameter_count == 650
