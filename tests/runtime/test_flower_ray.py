"""A few of the same on Ray: what may differ there is where state, mods and records travel."""

import random
from collections.abc import Iterator

import pytest

from fedlab.runtime import Executor, InlineExecutor, RayExecutor, quiet_logger
from tests.runtime.apps import check_busy_app, squares_app
from tests.runtime.test_flower_strategies import CASES, bare, start

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    quiet_logger()
    executor = RayExecutor(workers=1)
    yield executor
    executor.close()


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam", "DifferentialPrivacyClientSideAdaptiveClipping"])
def test_the_same_bits_as_inline(name: str, executor: Executor) -> None:
    """A plain strategy, one that keeps state, and one that works with a mod in the clients."""
    make, _, mods = CASES[name]
    found = []
    for where in (InlineExecutor(), executor):
        random.seed(1)
        found.append(start(make(), bare(squares_app(mods), where)).arrays["w"].numpy().tobytes())
    assert found[0] == found[1]


def test_actions_queries_state_mods_and_lifespan(executor: Executor) -> None:
    check_busy_app(executor)
