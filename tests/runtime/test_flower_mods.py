"""Every mod of flwr, and everything else that a ClientApp may do, on our Grid."""

import logging
import math
from collections.abc import Callable, Iterator

import flwr.clientapp.mod as flower
import numpy as np
import pytest
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod

from fedlab import seeds
from fedlab.runtime import InlineExecutor, SimulationGrid, quiet_logger
from tests.runtime.apps import ask, busy_app, check_busy_app, squares_app, weights

SIGMA = 0.5 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 2.0
"""Noise of `LocalDpMod(..., sensitivity=0.5, epsilon=2, delta=1e-5)`."""

# Clients 0, 1 and 2 add 1, 2 and 5 to both coordinates: lengths √2, 2√2 and 5√2; the bound is 2√2.
MODS: dict[str, tuple[Callable[[], Mod], list[float]]] = {
    "fixedclipping_mod": (lambda: fixedclipping_mod, [1.0, 2.0, 2.0]),
    "adaptiveclipping_mod": (lambda: adaptiveclipping_mod, [1.0, 2.0, 2.0]),
    "LocalDpMod": (lambda: LocalDpMod(2 * math.sqrt(2), 0.5, 2.0, 1e-5), [1.0, 2.0, 2.0]),
    "arrays_size_mod": (lambda: flower.arrays_size_mod, [1.0, 2.0, 5.0]),
    "message_size_mod": (lambda: flower.message_size_mod, [1.0, 2.0, 5.0]),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    quiet_logger()
    yield
    quiet_logger()


def test_every_mod_of_flwr_is_tested_here() -> None:
    """One that comes with an upgrade of flwr fails this until it has a row."""
    assert MODS.keys() == set(flower.__all__)


@pytest.mark.parametrize("name", MODS)
def test_a_mod_runs_unmodified(name: str) -> None:
    make, expected = MODS[name]
    grid = SimulationGrid(squares_app([make()]), 3)
    replies = ask(grid, "train", clipping_norm=2 * math.sqrt(2))
    noise = np.zeros((3, 2))
    if name == "LocalDpMod":
        # The mod draws from numpy's global generator, which the Grid seeds for each message.
        streams = [np.random.RandomState(seeds.derive(0, "client", n) % 2**32) for n in (1, 2, 3)]
        noise = np.stack([stream.normal(0, SIGMA, 2) for stream in streams])
    np.testing.assert_allclose([weights(r) for r in replies], np.array(expected)[:, None] + noise, rtol=1e-12)
    if name == "adaptiveclipping_mod":
        assert [r.content["metrics"]["norm_bit"] for r in replies] == [0, 0, 1]


def test_the_size_mods_log_what_travels(caplog: pytest.LogCaptureFixture) -> None:
    """Two float64 are 16 bytes; as an npy file, with its header, 144; the name "w" is one more."""
    logging.getLogger("flwr").setLevel(logging.INFO)
    ask(SimulationGrid(squares_app([flower.arrays_size_mod, flower.message_size_mod]), 1), "train")
    assert "Incoming message size" in caplog.text
    assert "{'arrays': {'elements': 2, 'bytes': 145}}" in caplog.text


def test_a_mod_that_refuses_is_a_failed_reply() -> None:
    """No clipping norm in the message: flwr's mod answers with an error of its own."""
    replies = ask(SimulationGrid(squares_app([fixedclipping_mod]), 2), "train")
    assert all(r.has_error() and "clipping_norm" in r.error.reason for r in replies)


def test_actions_queries_state_mods_and_lifespan() -> None:
    check_busy_app(InlineExecutor())


def test_an_action_that_nobody_registered_is_a_failed_reply() -> None:
    replies = ask(SimulationGrid(busy_app(), 2), "query.weather", trace="")
    assert all(r.has_error() and "weather" in r.error.reason for r in replies)
