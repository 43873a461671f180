"""Local rules on Ray: the bits of the executor in this process, for the model and for the server's slots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedlab.clients import ClientConfig
from fedlab.runtime import Executor, RayExecutor, quiet_logger
from fedlab.tasks import Task
from tests.clients.rules import RULES, same, trained

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    quiet_logger()
    executor = RayExecutor(workers=1)
    yield executor
    executor.close()


@pytest.mark.parametrize("name", RULES)
def test_the_same_bits_as_inline(small_task: Task, executor: Executor, name: str) -> None:
    """Three rounds of five unequal clients in chunks of two: memory and uplinks travel, too."""
    config, sizes = ClientConfig(batch_size=4, local_epochs=2, learning_rate=0.05), [5, 12, 9, 20, 7]
    inline, ray = (
        trained(RULES[name](), small_task, config, sizes, number=3, executor=where)
        for where in (None, executor)
    )
    assert same(inline, ray)
